package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// startPython starts one instance in the embedded interpreter.
func startPython(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, core.Errorf("load", core.CodeUnsupported, "plugin %s: mode python is not built into this binary", m.ID())
}
