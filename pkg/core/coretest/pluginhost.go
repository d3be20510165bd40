package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// PluginCall is a method and the payload it is called with.
type PluginCall struct {
	Method  string
	Payload string
}

// PluginHostFixture is one host without plugins and the sample that it is tried
// with, in the mode under test.
type PluginHostFixture struct {
	Host core.PluginHost

	// Manifest returns a manifest of the sample under a name of its own.
	Manifest func(name string) core.Manifest
	// Broken returns a manifest whose start fails with an error of the plugin's
	// that holds BrokenText; nil: the sample cannot do that.
	Broken     func(name string) core.Manifest
	BrokenText string

	// Echo is a method that returns its payload, or what Wrap makes of it.
	Echo string
	Wrap func(payload []byte) []byte
	// Fail fails with an error of the plugin's own that holds FailText.
	Fail     PluginCall
	FailText string
	// Hint fails and asks for a retry after a fixed time; empty: the wire has no hints.
	Hint PluginCall
	// Huge returns more than [core.MaxCallPayload]; empty: the sample cannot.
	Huge PluginCall
	// Unknown is a method that the plugin refuses as not its own; empty: it cannot
	// tell.
	Unknown string
	// Hang does not return for a minute unless it is interrupted.
	Hang PluginCall
	// Crash ends the plugin's process; empty: it has none of its own.
	Crash PluginCall
	// TextOnly says that payloads must be UTF-8.
	TextOnly bool
	// Poisons says that a call past its deadline leaves a plugin that takes no more.
	Poisons bool
	// NoReload says that the mode refuses reloads.
	NoReload bool
}

// PluginHostCheck is one sentence of the contract of [core.PluginHost] and the
// check that holds an implementation to it.
type PluginHostCheck struct {
	Rule  string
	Check func(ctx context.Context, f *PluginHostFixture) error
}

// RunPluginHost runs every check against a fresh fixture of its own. open shuts
// its host down with t and fails it when anything is left; it may call t.Parallel
// first, where hosts share nothing.
func RunPluginHost(t *testing.T, open func(t *testing.T) *PluginHostFixture) {
	t.Helper()
	for _, c := range PluginHostChecks() {
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			f := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if err := c.Check(ctx, f); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// PluginHostChecks returns the checks, for callers that run them one by one.
func PluginHostChecks() []PluginHostCheck {
	return []PluginHostCheck{
		{"a loaded plugin is described and listed by name", checkPluginInfo},
		{"a plugin that does not start leaves nothing, not even its name", checkPluginBroken},
		{"a name in use is refused", checkPluginName},
		{"a call returns what the plugin made of the payload, whatever its size", checkPluginEcho},
		{"the plugin's own failure is an error with its message and hint", checkPluginFailure},
		{"what breaks the limits or the contract is refused with its own code", checkPluginRefusals},
		{"a batch is answered in order, each payload by itself", checkPluginBatch},
		{"callers at once each get their own answer", checkPluginCallers},
		{"a call ends with its context, whatever the plugin does", checkPluginDeadline},
		{"a hung plugin delays no other", checkPluginIsolation},
		{"the death of a plugin's process is a typed error, and the plugin comes back", checkPluginCrash},
		{"unload frees the name and lets calls in flight finish", checkPluginUnload},
		{"a reload loses no call", checkPluginReload},
		{"after shutdown everything is closed", checkPluginShutdown},
	}
}

func (f *PluginHostFixture) load(ctx context.Context, name string) error {
	_, err := f.Host.Load(ctx, f.Manifest(name))
	return err
}

// echo calls the sample and compares the answer.
func (f *PluginHostFixture) echo(ctx context.Context, name string, payload []byte) error {
	sent := bytes.Clone(payload)
	out, err := f.Host.Call(ctx, name, f.Echo, payload)
	if err != nil {
		return fmt.Errorf("echo of %d bytes: %w", len(payload), err)
	}
	if !bytes.Equal(sent, payload) {
		return errors.New("the caller's payload was changed")
	}
	if want := f.wrap(payload); !bytes.Equal(out, want) {
		return fmt.Errorf("echo of %d bytes returned %d, want %d", len(payload), len(out), len(want))
	}
	return nil
}

func (f *PluginHostFixture) wrap(payload []byte) []byte {
	if f.Wrap == nil {
		return payload
	}
	return f.Wrap(payload)
}

func (f *PluginHostFixture) call(ctx context.Context, name string, c PluginCall) ([]byte, error) {
	return f.Host.Call(ctx, name, c.Method, []byte(c.Payload))
}

// wantPluginCode checks an error's code and that its text holds a part.
func wantPluginCode(what string, err error, code core.Code, part string) error {
	if !core.IsCode(err, code) {
		return fmt.Errorf("%s: got %v (%v), want %v", what, err, core.CodeOf(err), code)
	}
	if !strings.Contains(err.Error(), part) {
		return fmt.Errorf("%s: %q does not hold %q", what, err, part)
	}
	return nil
}

func checkPluginInfo(ctx context.Context, f *PluginHostFixture) error {
	for _, name := range []string{"zeta", "alpha"} {
		m := f.Manifest(name)
		info, err := f.Host.Load(ctx, m)
		if err != nil {
			return err
		}
		if info.Name != name || info.ID != m.ID() || info.Mode != m.Mode || info.Generation != 1 || info.Start <= 0 {
			return fmt.Errorf("load described %+v", info)
		}
		if len(info.Containment.Enforced)+len(info.Containment.Missing) == 0 {
			return errors.New("nothing is said about containment")
		}
	}
	all := f.Host.Plugins()
	if len(all) != 2 || all[0].Name != "alpha" || all[1].Name != "zeta" {
		return fmt.Errorf("listed %+v", all)
	}
	return nil
}

func checkPluginBroken(ctx context.Context, f *PluginHostFixture) error {
	if f.Broken == nil {
		return nil
	}
	_, err := f.Host.Load(ctx, f.Broken("p"))
	if err := wantPluginCode("load", err, core.CodePluginError, f.BrokenText); err != nil {
		return err
	}
	if all := f.Host.Plugins(); len(all) != 0 {
		return fmt.Errorf("still listed: %+v", all)
	}
	return f.load(ctx, "p")
}

func checkPluginName(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	return wantPluginCode("second load", f.load(ctx, "p"), core.CodeAlreadyExists, "p")
}

func checkPluginEcho(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	for _, n := range []int{0, 1, 100, 64 << 10, 1<<20 + 1, core.MaxCallPayload} {
		if f.TextOnly && n > 1<<20 {
			n = 4 << 20 // what is quoted grows
		}
		if err := f.echo(ctx, "p", bytes.Repeat([]byte("x"), n)); err != nil {
			return err
		}
	}
	binary := []byte{0, 1, 0xff, 0xfe, '\n', 0}
	if f.TextOnly {
		_, err := f.Host.Call(ctx, "p", f.Echo, binary)
		return wantPluginCode("binary payload", err, core.CodePluginContract, "UTF-8")
	}
	return f.echo(ctx, "p", binary)
}

func checkPluginFailure(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	_, err := f.call(ctx, "p", f.Fail)
	if err := wantPluginCode("failure", err, core.CodePluginError, f.FailText); err != nil {
		return err
	}
	if hint := core.RetryOf(err); hint.Kind != core.RetryNever {
		return fmt.Errorf("a failure without a hint carries %+v", hint)
	}
	if f.Hint.Method != "" {
		_, err := f.call(ctx, "p", f.Hint)
		if err := wantPluginCode("failure with a hint", err, core.CodePluginError, ""); err != nil {
			return err
		}
		if hint := core.RetryOf(err); hint.Kind != core.RetryAfter || hint.After <= 0 {
			return fmt.Errorf("the plugin's hint became %+v", hint)
		}
	}
	return f.echo(ctx, "p", []byte("still alive"))
}

func checkPluginRefusals(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	_, err := f.Host.Call(ctx, "absent", f.Echo, nil)
	errs := []error{wantPluginCode("unknown plugin", err, core.CodeNotFound, "absent")}
	_, err = f.Host.Call(ctx, "p", f.Echo, make([]byte, core.MaxCallPayload+1))
	errs = append(errs, wantPluginCode("large payload", err, core.CodeTooLarge, ""))
	_, err = f.Host.CallBatch(ctx, "p", f.Echo, make([][]byte, core.MaxBatchLen+1))
	errs = append(errs, wantPluginCode("long batch", err, core.CodeTooLarge, ""))
	_, err = f.Host.Call(ctx, "p", strings.Repeat("m", core.MaxMethodLen+1), nil)
	errs = append(errs, wantPluginCode("long method", err, core.CodeTooLarge, ""))
	if f.Unknown != "" {
		_, err = f.Host.Call(ctx, "p", f.Unknown, nil)
		errs = append(errs, wantPluginCode("unknown method", err, core.CodePluginContract, ""))
	}
	if f.Huge.Method != "" {
		_, err = f.call(ctx, "p", f.Huge)
		errs = append(errs, wantPluginCode("large result", err, core.CodeTooLarge, ""))
	}
	errs = append(errs, f.echo(ctx, "p", []byte("after all that")))
	return errors.Join(errs...)
}

func checkPluginCallers(ctx context.Context, f *PluginHostFixture) error {
	if err := f.load(ctx, "p"); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for g := range errs {
		wg.Go(func() {
			for i := 0; i < 50 && errs[g] == nil; i++ {
				errs[g] = f.echo(ctx, "p", fmt.Appendf(nil, "caller %d call %d", g, i))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
