package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// startSO opens a shared library in this process.
func startSO(_ context.Context, m core.Manifest, _ hostEnv) (instance, error) {
	return nil, core.Errorf("load", core.CodeUnsupported, "plugin %s: mode so is not built into this binary", m.ID())
}
