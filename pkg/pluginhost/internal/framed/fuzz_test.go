package framed

import (
	"bytes"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// FuzzFrames reads arbitrary bytes as a stream of frames and each body as what
// its type promises; what parses must survive encoding and parsing again.
func FuzzFrames(f *testing.F) {
	hello, err := AppendHello(nil, map[string]any{"a": 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(hello)
	f.Add(AppendCall(nil, 1, 5, "echo", []byte("x")))
	f.Add(AppendBatch(nil, 2, 0, "echo", [][]byte{nil, []byte("y")}))
	f.Add(AppendBatchResult(nil, 3, []core.CallResult{{Result: []byte("r")}, {Err: core.Errorf("", core.CodePluginError, "e")}}))
	f.Add(Append(Append(nil, TypeCancel, 1, nil), TypeShutdown, 0, nil))
	f.Add(Append(nil, TypeError, 4, []byte(`{"code":"x","message":"m","retry":{"kind":"after","after_ms":-1}}`)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for {
			fr, err := r.Next()
			if err != nil {
				return
			}
			checkBody(t, fr)
		}
	})
}

func checkBody(t *testing.T, fr Frame) {
	switch fr.Type {
	case TypeCall:
		if c, err := ParseCall(fr.Body); err == nil {
			again := AppendCall(nil, fr.ID, c.Millis, c.Method, c.Payload)
			if !bytes.Equal(again[headerLen:], fr.Body) {
				t.Fatalf("call changed: %q -> %q", fr.Body, again)
			}
		}
	case TypeBatch:
		if b, err := ParseBatch(fr.Body); err == nil {
			again := AppendBatch(nil, fr.ID, b.Millis, b.Method, b.Payloads)
			if !bytes.Equal(again[headerLen:], fr.Body) {
				t.Fatalf("batch changed: %q -> %q", fr.Body, again)
			}
		}
	case TypeResult:
		for _, n := range []int{0, 1, 2} {
			if out, err := ParseBatchResult(fr.Body, n); err == nil && len(out) != n {
				t.Fatalf("%d answers for %d", len(out), n)
			}
		}
	case TypeError:
		if ParseError(fr.Body) == nil {
			t.Fatal("an error frame gave no error")
		}
	case TypeHello:
		if h, err := ParseHello(fr.Body); err == nil && h.Magic != Magic {
			t.Fatalf("wrong magic accepted: %q", h.Magic)
		}
	}
}
