package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// functions are one plugin that does what its method says.
func functions(t *testing.T) *Functions {
	t.Helper()
	f, err := NewFunctions(GoPlugin{Name: "p", Version: "1", Methods: map[string]Function{
		"upper": func(_ context.Context, b []byte) ([]byte, error) { return []byte(strings.ToUpper(string(b))), nil },
		"fail":  func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no answer") },
		"busy": func(context.Context, []byte) ([]byte, error) {
			return nil, core.Errorf("", core.CodeThrottled, "later")
		},
		"panic": func(context.Context, []byte) ([]byte, error) { panic("oh") },
		"huge":  func(context.Context, []byte) ([]byte, error) { return make([]byte, core.MaxCallPayload+1), nil },
		"wait":  func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFunctionsAnswerEveryItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := functions(t)
		want := []struct {
			method string
			code   core.Code
		}{
			{"upper", core.CodeUnknown}, {"fail", core.CodePluginError}, {"busy", core.CodeThrottled}, {"panic", core.CodePluginCrashed},
			{"huge", core.CodeTooLarge}, {"wait", core.CodeDeadlineExceeded}, {"absent", core.CodeNotFound}, {"upper", core.CodeUnknown},
		}
		var items []core.WorkItem
		for i, w := range want {
			items = append(items, core.WorkItem{Plugin: "p", Method: w.method, Payload: []byte("abc"), Timeout: time.Second, Lease: core.Lease{Item: core.ItemID(i + 1)}})
		}
		for i, r := range f.Execute(t.Context(), items) {
			if ok := want[i].code == core.CodeUnknown; ok != (r.Err == nil) || !ok && !core.IsCode(r.Err, want[i].code) || r.Lease != items[i].Lease {
				t.Errorf("%s: %q, %v, lease %v", want[i].method, r.Result, r.Err, r.Lease)
			}
			if want[i].method == "upper" && string(r.Result) != "ABC" {
				t.Errorf("upper answers %q", r.Result)
			}
		}
		other := core.WorkItem{Plugin: "p", Method: "upper", Digest: "another"}
		if r := f.Execute(t.Context(), []core.WorkItem{other, {Plugin: "q"}}); !core.IsCode(r[0].Err, core.CodePreempted) || !core.IsCode(r[1].Err, core.CodeNotFound) {
			t.Errorf("another version and another plugin: %v", r)
		}
	})
}

func TestFunctionsAreToldAsPlugins(t *testing.T) {
	one, err := NewFunctions(
		GoPlugin{Name: "b", Version: "1", Methods: map[string]Function{"m": func(context.Context, []byte) ([]byte, error) { return nil, nil }}},
		GoPlugin{Name: "a", Version: "2", Methods: map[string]Function{"m": func(context.Context, []byte) ([]byte, error) { return nil, nil }}})
	if err != nil {
		t.Fatal(err)
	}
	ps := one.LoadedPlugins()
	if len(ps) != 2 || ps[0].Name != "a" || ps[1].Mode != core.ModeGo || len(ps[0].Digest) != 64 || ps[0].Digest == ps[1].Digest {
		t.Errorf("it has %+v", ps)
	}
	m := map[string]Function{"m": func(context.Context, []byte) ([]byte, error) { return nil, nil }}
	for name, wrong := range map[string][]GoPlugin{
		"no name":     {{Version: "1", Methods: m}},
		"no version":  {{Name: "p", Methods: m}},
		"no methods":  {{Name: "p", Version: "1"}},
		"no function": {{Name: "p", Version: "1", Methods: map[string]Function{"m": nil}}},
		"twice":       {{Name: "p", Version: "1", Methods: m}, {Name: "p", Version: "2", Methods: m}},
	} {
		if _, err := NewFunctions(wrong...); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
