package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func unsupported(m core.Manifest) error {
	return core.Errorf("load", core.CodeUnsupported, "plugin %s: mode %s is not built into this binary", m.ID(), m.Mode)
}

func startFramed(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, unsupported(m)
}
func startGRPC(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, unsupported(m)
}
func startFramedJSON(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, unsupported(m)
}
func startIsolatedSO(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, unsupported(m)
}
