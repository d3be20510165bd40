package cloudlocal

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestMetaRoundTrip(t *testing.T) {
	id := core.SumContent([]byte("x"))
	for _, ct := range []string{"", "text/plain", `a"b\c`, strings.Repeat(`\`, maxContentType), " ~"} {
		m := objectMeta{size: 12345, contentType: ct, createdMS: 1767225600123}
		b := m.encode(id)
		if len(b) > maxMeta {
			t.Errorf("%d bytes for a content type of %d", len(b), len(ct))
		}
		var plain map[string]any
		if err := json.Unmarshal(b, &plain); err != nil || plain["content_type"] != ct {
			t.Errorf("%s is no JSON of %q: %v", b, ct, err)
		}
		got, err := decodeMeta(id, b)
		m.checked = true
		if err != nil || got != m {
			t.Errorf("%s came back as %+v, %v", b, got, err)
		}
		if _, err := decodeMeta(core.SumContent([]byte("y")), b); err == nil {
			t.Errorf("the meta of another object was believed: %s", b)
		}
	}
}

// TestMetaFlips shows that no single flipped bit changes what is read.
func TestMetaFlips(t *testing.T) {
	id := core.SumContent([]byte("x"))
	want := objectMeta{size: 4096, contentType: "text/plain", createdMS: 1767225600123, checked: true}
	b := want.encode(id)
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := decodeMeta(id, b); err == nil && got != want {
			t.Errorf("bit %d: %s was read as %+v", bit, b, got)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func TestMetaOfTheOriginal(t *testing.T) {
	for text, want := range map[string]objectMeta{
		`{"size":3,"content_type":"text/plain","created_at_ms":1700000000000}`:      {size: 3, contentType: "text/plain", createdMS: 1700000000000},
		"{\n  \"created_at_ms\": 5,\n  \"size\": 3,\n  \"content_type\": null\n}\n": {size: 3, createdMS: 5},
		`{"size":3,"created_at_ms":5}`:                                              {size: 3, createdMS: 5},
	} {
		got, err := decodeMeta(core.ContentID{1}, []byte(text))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "{}", "null", "[]", `{"size":3}`, `{"size":-1,"created_at_ms":5}`, `{"size":"3","created_at_ms":5}`, `{"size":3,"created_at_ms":5}}`,
		`{"size":3,"created_at_ms":5,"more":1}`, `{"size":3,"created_at_ms":5,"content_type":"a\nb"}`, `{"size":3,"created_at_ms":5,"check":""}`,
		`{"size":1e99,"created_at_ms":5}`, `{"size":3,"content_type":"x","created_at_ms":5,"check":"00000000"}`,
	} {
		if got, err := decodeMeta(core.ContentID{1}, []byte(text)); err == nil {
			t.Errorf("%s was read as %+v", text, got)
		}
	}
}

// FuzzObjectMeta wants no panic, and of whatever is read that it comes back from
// what would be written for it.
func FuzzObjectMeta(f *testing.F) {
	id := core.SumContent([]byte("x"))
	f.Add(objectMeta{size: 1, contentType: `a"b`, createdMS: -5}.encode(id))
	f.Add(objectMeta{size: 4096, contentType: "text/plain", createdMS: 1767225600123}.encode(id))
	f.Add([]byte(`{"size":3,"content_type":null,"created_at_ms":1700000000000}`))
	f.Add([]byte(`{"size":`))
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(id, b)
		if err != nil {
			return
		}
		again, err := decodeMeta(id, m.encode(id))
		m.checked = true
		if err != nil || again != m {
			t.Errorf("%q was read as %+v, which comes back as %+v, %v", b, m, again, err)
		}
	})
}

// FuzzContentID wants that a text is an id only when it is exactly the id's own
// text, and that the names made of it have the one shape that stays in the root.
func FuzzContentID(f *testing.F) {
	for _, s := range hostileIDs() {
		f.Add(s)
	}
	f.Add(core.SumContent(nil).String())
	f.Fuzz(func(t *testing.T, s string) {
		id, err := core.ParseContentID(s)
		if err != nil {
			if !core.IsCode(err, core.CodeInvalidArgument) {
				t.Errorf("%q: code %s", s, core.CodeOf(err))
			}
			return
		}
		if id.String() != s || blobName(id) != s[:2]+"/"+s[2:4]+"/"+s || metaName(id) != blobName(id)+".meta.json" {
			t.Errorf("%q became %s below %s", s, id, blobName(id))
		}
	})
}

// hostileIDs are texts that somebody might hope to pass off as an id.
func hostileIDs() []string {
	good := core.SumContent([]byte("x")).String()
	bad := []string{"", ".", "..", "/", "../../etc/passwd", "/etc/passwd", "..\\..\\x", good + "\x00", "\x00" + good[1:], good[:63], good + "0",
		strings.ToUpper(good), "../" + good[3:], "ab/cd/" + good[6:], strings.Repeat("../", 21) + "x", strings.Repeat("a", 300), "%2e%2e/" + good[7:],
		"０" + good[3:], "é" + good[2:], good[:62] + "g0", " " + good[1:], good[:63] + "\n", "0x" + good[2:], strings.Repeat("\u202e", 22)[:64]}
	for i := range 180 { // each position with a character that means something to a path
		bad = append(bad, good[:i%64]+string("./\\\x00:~%A*"[i%9])+good[i%64+1:])
	}
	return bad
}
