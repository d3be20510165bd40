package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func checkPluginBatch(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	payloads := make([][]byte, 300)
	for i := range payloads {
		payloads[i] = fmt.Appendf(nil, "payload %d", i)
	}
	out, err := f.Host.CallBatch(ctx, "p", f.Echo, payloads)
	if err != nil || len(out) != len(payloads) {
		return fmt.Errorf("%d answers to %d payloads: %w", len(out), len(payloads), err)
	}
	for i, r := range out {
		if r.Err != nil || !bytes.Equal(r.Result, f.wrap(payloads[i])) {
			return fmt.Errorf("answer %d is %q, %w", i, r.Result, r.Err)
		}
	}
	if out, err = f.Host.CallBatch(ctx, "p", f.Echo, nil); err != nil || len(out) != 0 {
		return fmt.Errorf("an empty batch gave %d answers, %w", len(out), err)
	}
	out, err = f.Host.CallBatch(ctx, "p", f.Fail.Method, [][]byte{[]byte(f.Fail.Payload), []byte(f.Fail.Payload)})
	if err == nil {
		for i, r := range out {
			if err := wantPluginCode(fmt.Sprintf("answer %d of a failing batch", i), r.Err, core.CodePluginError, f.FailText); err != nil {
				return err
			}
		}
		return nil
	}
	return wantPluginCode("failing batch", err, core.CodePluginError, f.FailText)
}

// brief ends soon; it is for calls that would last for a minute.
func brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 100*time.Millisecond)
}

func checkPluginDeadline(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	_, err := f.Host.Call(gone, "p", f.Echo, nil)
	if err := wantPluginCode("call with an ended context", err, core.CodeCanceled, ""); err != nil {
		return err
	}
	short, cancel := brief(ctx)
	defer cancel()
	_, err = f.call(short, "p", f.Hang)
	if err := wantPluginCode("call past its deadline", err, core.CodeDeadlineExceeded, ""); err != nil {
		return err
	}
	if f.Poisons {
		_, err := f.Host.Call(ctx, "p", f.Echo, nil)
		return wantPluginCode("call to a stuck plugin", err, core.CodePluginPoisoned, "")
	}
	return f.eventually(ctx, "p")
}

// eventually calls until a plugin that is being replaced answers again.
func (f *PluginHostFixture) eventually(ctx context.Context, name string) error {
	for {
		err := f.echo(ctx, name, []byte("again"))
		if err == nil || ctx.Err() != nil || !core.IsCode(err, core.CodePluginCrashed) && !core.IsCode(err, core.CodePluginPoisoned) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(core.RetryOf(err).After, 10*time.Millisecond)):
		}
	}
}

func checkPluginIsolation(ctx context.Context, f *PluginHostFixture) error {
	for _, name := range []string{"hung", "well"} {
		if err := f.load(ctx, name); err != nil {
			return err
		}
	}
	hung, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := f.call(hung, "hung", f.Hang)
		ended <- err
	}()
	defer func() { <-ended }()
	defer cancel()
	for i := range 20 {
		if err := f.echo(ctx, "well", fmt.Appendf(nil, "%d", i)); err != nil {
			return err
		}
	}
	select {
	case err := <-ended:
		ended <- err
		return fmt.Errorf("the hanging call ended early: %w", err)
	default:
		return nil
	}
}

func checkPluginCrash(ctx context.Context, f *PluginHostFixture) error {
	if f.Crash.Method == "" {
		return nil
	}
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	before := f.Host.Plugins()[0]
	_, err := f.call(ctx, "p", f.Crash)
	if err := wantPluginCode("crash", err, core.CodePluginCrashed, ""); err != nil {
		return err
	}
	if err := f.eventually(ctx, "p"); err != nil {
		return err
	}
	if after := f.Host.Plugins()[0]; after.PID == before.PID || after.Generation != before.Generation+1 {
		return fmt.Errorf("before %+v, after %+v", before, after)
	}
	return nil
}

func checkPluginUnload(ctx context.Context, f *PluginHostFixture) error {
	if err := wantPluginCode("unload of nothing", f.Host.Unload(ctx, "p"), core.CodeNotFound, "p"); err != nil {
		return err
	}
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	begun := make(chan struct{}, len(errs))
	for g := range errs {
		wg.Go(func() {
			for i := 0; errs[g] == nil; i++ {
				errs[g] = f.echo(ctx, "p", fmt.Appendf(nil, "%d/%d", g, i))
				if i == 3 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	if err := f.Host.Unload(ctx, "p"); err != nil {
		return err
	}
	wg.Wait()
	for _, err := range errs {
		if !core.IsCode(err, core.CodeNotFound) {
			return fmt.Errorf("a call in flight ended with %w", err)
		}
	}
	if len(f.Host.Plugins()) != 0 {
		return errors.New("an unloaded plugin is listed")
	}
	return f.load(ctx, "p")
}

func checkPluginReload(ctx context.Context, f *PluginHostFixture) error {
	r, ok := f.Host.(core.Reloader)
	if !ok {
		return nil
	}
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	if f.NoReload {
		_, err := r.Reload(ctx, f.Manifest("p"))
		return wantPluginCode("reload", err, core.CodePluginContract, "")
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for g := range errs {
		wg.Go(func() {
			for i := 0; !stop.Load() && errs[g] == nil; i++ {
				errs[g] = f.echo(ctx, "p", fmt.Appendf(nil, "%d/%d", g, i))
			}
		})
	}
	var err error
	for n := 2; n <= 3 && err == nil; n++ {
		var info core.PluginInfo
		if info, err = r.Reload(ctx, f.Manifest("p")); err == nil && info.Generation != n {
			err = fmt.Errorf("generation %d after reload, want %d", info.Generation, n)
		}
	}
	if err == nil && f.Broken != nil {
		if _, e := r.Reload(ctx, f.Broken("p")); e == nil {
			err = errors.New("a reload with broken code succeeded")
		}
	}
	stop.Store(true)
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func checkPluginShutdown(ctx context.Context, f *PluginHostFixture) error {
	for _, name := range []string{"a", "b"} {
		if err := f.load(ctx, name); err != nil {
			return err
		}
	}
	if err := f.Host.Shutdown(ctx); err != nil {
		return err
	}
	if len(f.Host.Plugins()) != 0 {
		return errors.New("plugins are listed after shutdown")
	}
	_, err := f.Host.Call(ctx, "a", f.Echo, nil)
	return errors.Join(
		wantPluginCode("call", err, core.CodeClosed, ""),
		wantPluginCode("load", f.load(ctx, "c"), core.CodeClosed, ""),
		f.Host.Shutdown(ctx),
	)
}
