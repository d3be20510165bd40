package core_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestDefaultTimingIsValidAtEveryInterval(t *testing.T) {
	for _, h := range []time.Duration{core.MinHeartbeatInterval, 11 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second, core.MaxHeartbeatInterval} {
		d := core.DefaultTiming(h)
		if vs := d.Validate(); vs != nil {
			t.Errorf("H = %v: %v", h, vs)
		}
		if ws := d.Warnings(); ws != nil {
			t.Errorf("H = %v warns: %v", h, ws)
		}
		if d.Failure >= 2*h {
			t.Errorf("H = %v: failure after %v leaves nothing of 2 H", h, d.Failure)
		}
	}
	if got := (core.Timing{}).WithDefaults(); got != core.DefaultTiming(core.DefaultHeartbeatInterval) {
		t.Errorf("the zero timing becomes %+v", got)
	}
	custom := core.Timing{HeartbeatInterval: time.Second, SelfFence: 1200 * time.Millisecond}.WithDefaults()
	if custom.SelfFence != 1200*time.Millisecond || custom.Failure != 1750*time.Millisecond {
		t.Errorf("a given field must stand and others follow H: %+v", custom)
	}
}

func TestTimingRules(t *testing.T) {
	ok := core.DefaultTiming(time.Second)
	for _, c := range []struct {
		name string
		edit func(*core.Timing)
		keys string
	}{
		{"interval too short", func(x *core.Timing) { *x = core.DefaultTiming(time.Millisecond) }, core.KeyHeartbeatInterval},
		{"interval too long", func(x *core.Timing) { *x = core.DefaultTiming(time.Hour) }, core.KeyHeartbeatInterval},
		{"fence at the interval", func(x *core.Timing) { x.SelfFence = time.Second }, core.KeySelfFence},
		{"no room for skew", func(x *core.Timing) { x.Skew = 300 * time.Millisecond }, core.KeyFailure},
		{"failure before fence", func(x *core.Timing) { x.Failure = x.SelfFence - 1; x.Skew = 0 }, core.KeyFailure},
		{"skew of two intervals", func(x *core.Timing) { x.Skew = 2 * time.Second; x.Failure = 10 * time.Second }, core.KeySkew},
		{"negative skew", func(x *core.Timing) { x.Skew = -1 }, core.KeySkew},
		{"overflow", func(x *core.Timing) { x.SelfFence = math.MaxInt64; x.Failure = math.MaxInt64 }, core.KeyFailure},
		{"two at once", func(x *core.Timing) { x.SelfFence = 0; x.Skew = 3 * time.Second; x.Failure = 4 * time.Second }, core.KeySelfFence + " " + core.KeySkew},
	} {
		x := ok
		c.edit(&x)
		var keys []string
		for _, v := range x.Validate() {
			keys = append(keys, v.Key)
		}
		if got := strings.Join(keys, " "); got != c.keys {
			t.Errorf("%s: broken %q, want %q", c.name, got, c.keys)
		}
	}
	if ok.Validate() != nil {
		t.Error("the defaults must pass")
	}
}

func TestOriginalTimingLoadsWithAWarning(t *testing.T) {
	x := core.Timing{HeartbeatInterval: 500 * time.Millisecond, SelfFence: 4 * time.Second, Failure: 5 * time.Second, Skew: 250 * time.Millisecond}
	if vs := x.Validate(); vs != nil {
		t.Fatal(vs)
	}
	ws := x.Warnings()
	if len(ws) != 1 || ws[0].Key != core.KeyFailure || !strings.Contains(ws[0].Msg, "5s") {
		t.Errorf("the warning must name the detection time: %v", ws)
	}
}
