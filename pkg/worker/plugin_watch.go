package worker

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	// watchPause is the time between two looks at plugin files. A look costs one
	// system call for each file, works on every file system, and misses nothing
	// that editors do to replace a file.
	watchPause = 250 * time.Millisecond
	// watchReload bounds a reload that a changed file asks for.
	watchReload = time.Minute
)

// fileWatch reloads plugins whose files have changed.
type fileWatch struct {
	p      *Plugins
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex // guards files
	files map[string]map[string]fileState
}

// fileState is what tells one content of a file from the next.
type fileState struct {
	mod  time.Time
	size int64
}

// watchFiles begins to watch a plugin, or watches the files that it has now. loading
// is held.
func (p *Plugins) watchFiles(m core.Manifest) {
	if p.cfg.Files == nil {
		return
	}
	files, err := p.cfg.Files(m)
	if err != nil {
		p.log.Warn("the files of a plugin cannot be watched", "plugin", m.Name, "err", err)
		return
	}
	if p.watch == nil {
		ctx, cancel := context.WithCancel(context.Background())
		p.watch = &fileWatch{p: p, cancel: cancel, done: make(chan struct{}), files: map[string]map[string]fileState{}}
		go p.watch.run(ctx)
	}
	p.watch.mu.Lock()
	defer p.watch.mu.Unlock()
	states := make(map[string]fileState, len(files))
	for _, f := range files {
		states[f] = stateOf(f)
	}
	p.watch.files[m.Name] = states
}

// stateOf returns the zero state for a file that is not there just now.
func stateOf(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{}
	}
	return fileState{info.ModTime(), info.Size()}
}

func (w *fileWatch) stop() {
	w.cancel()
	<-w.done
}

// run looks until ctx ends. A change is acted on once nothing has changed for one
// look more, so that a file is not read while it is being written.
func (w *fileWatch) run(ctx context.Context) {
	defer close(w.done)
	changed := map[string]bool{}
	for sleep(ctx, watchPause) == nil {
		now := w.look()
		for name := range changed {
			if now[name] {
				continue
			}
			delete(changed, name)
			w.reload(ctx, name)
		}
		for name := range now {
			changed[name] = true
		}
	}
}

// look returns the plugins whose files have changed since the look before.
func (w *fileWatch) look() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]bool{}
	for name, files := range w.files {
		for path, old := range files {
			if s := stateOf(path); s != old {
				files[path] = s
				out[name] = true
			}
		}
	}
	return out
}

func (w *fileWatch) reload(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, watchReload)
	defer cancel()
	if err := w.p.Reload(ctx, name); err != nil && ctx.Err() == nil {
		w.p.log.Warn("a changed plugin was not taken over, the old one stays", "plugin", name, "err", err)
	}
}
