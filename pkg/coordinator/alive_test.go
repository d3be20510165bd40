package coordinator

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// stuckLog is a log whose reader has stopped reading once something is wrong.
type stuckLog struct {
	slog.Handler
	release chan struct{}
}

func (l stuckLog) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		<-l.release
	}
	return nil
}

func TestALoopThatHangsIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := stuckLog{slog.NewTextHandler(t.Output(), nil), make(chan struct{})}
		idle := prepare(t, newStore())
		if err := idle.Alive(); !core.IsCode(err, core.CodeUnavailable) {
			t.Errorf("before it runs: %v", err)
		}
		c := start(t, newStore(), func(cfg *Config, _ *Coordinator) { cfg.Logger = slog.New(l) })
		for i := range 12 {
			c.join(t, i)
		}
		time.Sleep(testH / 2)
		if err := c.Alive(); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		// All of them fail, and the loop hangs where it says so.
		time.Sleep(3*testH + stuckAfter)
		if err := c.Alive(); !core.IsCode(err, core.CodeUnavailable) {
			t.Errorf("while it hangs: %v", err)
		}
		close(l.release)
		time.Sleep(testH)
		if err := c.Alive(); err != nil {
			t.Errorf("when it goes on: %v", err)
		}
	})
}
