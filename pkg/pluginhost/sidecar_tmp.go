package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func startGRPC(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, core.Errorf("load", core.CodeUnsupported, "plugin %s: protocol grpc", m.ID())
}
func startFramedJSON(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, core.Errorf("load", core.CodeUnsupported, "plugin %s: protocol json", m.ID())
}
