package pluginhost

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// FuzzJSONFrame reads arbitrary bytes as a reply of the original's wire, and sends
// arbitrary text as a request.
func FuzzJSONFrame(f *testing.F) {
	reply := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	f.Add(reply(`{"payload":"x"}`), "echo")
	f.Add(reply(`{"error":"no"}`), "\x00")
	f.Add(reply(`{"error":{"code":1}}`), "é")
	f.Add(reply(`[]`), "")
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, "x")
	f.Add([]byte{0, 0, 0, 9, '{'}, "x")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		if body, err := readJSONFrame(bytes.NewReader(data)); err == nil {
			if len(body) > framed.MaxFrame || !bytes.Equal(body, data[4:4+len(body)]) {
				t.Fatalf("%d bytes read from %d", len(body), len(data))
			}
			out, err := parseJSONReply(body)
			if err == nil && !json.Valid(out) || err != nil && core.CodeOf(err) == core.CodeUnknown {
				t.Fatalf("reply %q gave %q, %v", body, out, err)
			}
		}
		frame, err := appendJSONRequest(nil, text, text)
		if err != nil || int(binary.BigEndian.Uint32(frame)) != len(frame)-4 {
			t.Fatalf("request %q: %d bytes, %v", text, len(frame), err)
		}
	})
}
