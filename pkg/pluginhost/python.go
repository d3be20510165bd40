package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/pyembed"
)

// startPython starts one instance in the embedded interpreter, which the first
// one finds and starts.
func startPython(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	held, err := inProcessContainment(m)
	if err != nil {
		return nil, err
	}
	config, err := configJSON(m.Config)
	if err != nil {
		return nil, err
	}
	path, _ := env.lookupEnv("PATH") // without one no python3 is found, and the error says so
	lib, err := env.libraries.Find(ctx, pyembed.Request{
		Interpreter: m.Runtime.Interpreter, SearchPath: path, MinVersion: m.Runtime.PythonMin,
	})
	if err != nil {
		return nil, err
	}
	python, err := pyembed.Open(lib, env.sdkDir)
	if err != nil {
		return nil, err
	}
	inst, err := python.Start(ctx, pyembed.Spec{
		Plugin:  m.Name,
		Digest:  m.Digest,
		Dir:     m.Dir,
		Module:  m.Python.Module,
		Factory: m.Python.Factory,
		Config:  config,
		Fresh:   env.reload,
		Log:     func(line string) { env.emit(core.LevelInfo, line) },
	})
	if err != nil {
		return nil, err
	}
	return &pythonInstance{inst: inst, held: held}, nil
}

// pythonInstance is one plugin object on its own thread of the embedded
// interpreter.
type pythonInstance struct {
	inst *pyembed.Instance
	held core.Containment
}

var (
	_ instance    = (*pythonInstance)(nil)
	_ selfQueuing = (*pythonInstance)(nil)
)

func (i *pythonInstance) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	return i.inst.Call(ctx, method, payload)
}

func (i *pythonInstance) callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return i.inst.CallBatch(ctx, method, payloads)
}

func (i *pythonInstance) containment() core.Containment { return i.held }

func (i *pythonInstance) pid() int { return 0 }

func (i *pythonInstance) done() <-chan struct{} { return i.inst.Done() }

func (i *pythonInstance) exit() error { return i.inst.Exit() }

func (i *pythonInstance) stop(ctx context.Context) error { return i.inst.Stop(ctx) }

// queueDepth implements [selfQueuing]: the thread drains many calls for each
// wake-up.
func (i *pythonInstance) queueDepth() int { return pyembed.QueueDepth }
