package coretest

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// ComputeHintFixture is one machine under test.
type ComputeHintFixture struct {
	Hint core.ComputeHint
	// Announce makes the machine's end known, lead from now. Nil where nothing can.
	Announce func(lead time.Duration) error
}

// ComputeHintOptions declares what an implementation describes.
type ComputeHintOptions struct {
	OtherMachine bool // not the one that the test runs on
}

// ComputeHintCheck is one sentence of the contract of [core.ComputeHint] and the
// check that holds an implementation to it. The check returns what it saw.
type ComputeHintCheck struct {
	Rule     string
	Check    func(ctx context.Context, f *ComputeHintFixture) error
	announce bool
	here     bool
}

// RunComputeHint runs every check against a fresh fixture of its own. open registers
// whatever clean-up it needs with t.
func RunComputeHint(t *testing.T, open func(t *testing.T) *ComputeHintFixture, opts ComputeHintOptions) {
	t.Helper()
	for _, c := range ComputeHintChecks() {
		if c.here && opts.OtherMachine {
			continue
		}
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			f := open(t)
			if c.announce && f.Announce == nil {
				return
			}
			if err := c.Check(ctx, f); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// ComputeHintChecks returns the checks, for callers that run them one by one.
func ComputeHintChecks() []ComputeHintCheck {
	return []ComputeHintCheck{
		{Rule: "the inventory names the system the program was built for", Check: checkComputeSystem, here: true},
		{Rule: "every number that is known says where it was read", Check: checkComputeSources},
		{Rule: "what may be used is at most what the machine has", Check: checkComputeUsable},
		{Rule: "no GPU means a reason, and a GPU means none", Check: checkComputeGPUs},
		{Rule: "what is handed out belongs to the caller", Check: checkComputeOwned},
		{Rule: "many may ask at once", Check: checkComputeConcurrent},
		{Rule: "an ended context ends both calls with its code", Check: checkComputeCancel},
		{Rule: "an announced end is told, with its time", Check: checkComputeAnnounced, announce: true},
		{Rule: "an end announced before anybody asked is told too", Check: checkComputeAnnouncedBefore, announce: true},
	}
}

func checkComputeSystem(ctx context.Context, f *ComputeHintFixture) error {
	inv, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	if inv.OS != runtime.GOOS || inv.Arch != runtime.GOARCH || inv.Hostname == "" {
		return fmt.Errorf("%s/%s on %q, built for %s/%s", inv.OS, inv.Arch, inv.Hostname, runtime.GOOS, runtime.GOARCH)
	}
	if inv.CPU.Machine.Value < 1 || inv.CPU.UsableMilli.Value < 1 {
		return fmt.Errorf("no CPU: %+v", inv.CPU)
	}
	return nil
}

// quantities returns every quantity of an inventory by name.
func quantities(inv core.Inventory) map[string]core.Quantity {
	return map[string]core.Quantity{
		"machine CPUs": inv.CPU.Machine, "usable CPUs": inv.CPU.UsableMilli, "NUMA nodes": inv.CPU.NUMANodes, "frequency": inv.CPU.FrequencyMHz,
		"load": inv.CPU.LoadAvgCentis, "machine memory": inv.Memory.MachineMiB, "usable memory": inv.Memory.UsableMiB, "available memory": inv.Memory.AvailableMiB,
	}
}

func checkComputeSources(ctx context.Context, f *ComputeHintFixture) error {
	inv, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	for name, q := range quantities(inv) {
		if q.Value < 0 || q.Value > 0 && q.Source == "" {
			return fmt.Errorf("%s: %+v", name, q)
		}
	}
	return nil
}

func checkComputeUsable(ctx context.Context, f *ComputeHintFixture) error {
	inv, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	if c := inv.CPU; c.Machine.Value > 0 && c.UsableMilli.Value > 1000*c.Machine.Value {
		return fmt.Errorf("CPUs: %+v", c)
	}
	if m := inv.Memory; m.MachineMiB.Value > 0 && (m.UsableMiB.Value > m.MachineMiB.Value || m.AvailableMiB.Value > m.MachineMiB.Value) {
		return fmt.Errorf("memory: %+v", m)
	}
	if d := inv.Disk; d.FreeMiB > d.TotalMiB {
		return fmt.Errorf("disk: %+v", d)
	}
	return nil
}

func checkComputeGPUs(ctx context.Context, f *ComputeHintFixture) error {
	inv, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	if (len(inv.GPUs) == 0) == (inv.GPUReason == "") {
		return fmt.Errorf("%d GPUs and the reason %q", len(inv.GPUs), inv.GPUReason)
	}
	return nil
}

func checkComputeOwned(ctx context.Context, f *ComputeHintFixture) error {
	a, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	for i := range a.GPUs {
		a.GPUs[i].Name = "changed by a caller"
		for j := range a.GPUs[i].MIGDevices {
			a.GPUs[i].MIGDevices[j].UUID = "changed by a caller"
		}
	}
	for i := range a.Notes {
		a.Notes[i] = "changed by a caller"
	}
	b, err := f.Hint.Inventory(ctx)
	if err != nil {
		return err
	}
	for _, g := range b.GPUs {
		if g.Name == "changed by a caller" || len(g.MIGDevices) > 0 && g.MIGDevices[0].UUID == "changed by a caller" {
			return fmt.Errorf("a caller's change came back: %+v", g)
		}
	}
	for _, n := range b.Notes {
		if n == "changed by a caller" {
			return fmt.Errorf("a caller's change came back: %q", n)
		}
	}
	return nil
}

func checkComputeConcurrent(ctx context.Context, f *ComputeHintFixture) error {
	const callers = 8
	invs, errs := make([]core.Inventory, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { invs[i], errs[i] = f.Hint.Inventory(ctx) })
	}
	wg.Wait()
	if err := first(errs...); err != nil {
		return err
	}
	for _, inv := range invs[1:] {
		if inv.Hostname != invs[0].Hostname || !reflect.DeepEqual(inv.CPU.Machine, invs[0].CPU.Machine) {
			return fmt.Errorf("two machines: %+v and %+v", inv, invs[0])
		}
	}
	return nil
}

func checkComputeCancel(ctx context.Context, f *ComputeHintFixture) error {
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, inv := f.Hint.Inventory(done)
	_, pre := f.Hint.Preemption(done)
	if err := first(wantCode(inv, core.CodeCanceled, "inventory"), wantCode(pre, core.CodeCanceled, "preemption")); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, pre = f.Hint.Preemption(short)
	return wantCode(pre, core.CodeDeadlineExceeded, "preemption that nobody announces")
}

func checkComputeAnnounced(ctx context.Context, f *ComputeHintFixture) error {
	type result struct {
		p   core.Preemption
		err error
	}
	told := make(chan result, 1)
	go func() {
		p, err := f.Hint.Preemption(ctx)
		told <- result{p, err}
	}()
	if err := f.Announce(10 * time.Minute); err != nil {
		return err
	}
	r := <-told
	return first(r.err, wantSoon(r.p, 10*time.Minute))
}

func checkComputeAnnouncedBefore(ctx context.Context, f *ComputeHintFixture) error {
	if err := f.Announce(time.Hour); err != nil {
		return err
	}
	for range 2 {
		p, err := f.Hint.Preemption(ctx)
		if err := first(err, wantSoon(p, time.Hour)); err != nil {
			return err
		}
	}
	return nil
}

// wantSoon wants a time that is about lead away.
func wantSoon(p core.Preemption, lead time.Duration) error {
	if left := time.Until(p.At); left > lead+time.Minute || left < lead-2*time.Minute || p.Source == "" {
		return fmt.Errorf("announced %+v, %v away, want %v", p, left, lead)
	}
	return nil
}
