package core_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestIDsRoundTrip(t *testing.T) {
	w := core.NewWorkerID()
	back, err := core.ParseWorkerID(w.String())
	if err != nil || back != w {
		t.Fatalf("%s came back as %s, %v", w, back, err)
	}
	type row struct {
		W core.WorkerID  `json:"w"`
		R core.RunID     `json:"r"`
		C core.ContentID `json:"c"`
		J core.JobID     `json:"j"`
	}
	in := row{W: w, C: core.SumContent([]byte("x")), J: core.NewJobID()}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `"r":""`) {
		t.Errorf("a zero id must be the empty text: %s", b)
	}
	var out row
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%+v came back as %+v, %v", in, out, err)
	}
	if core.NewRunID().Time().IsZero() || core.NewJobID().Time().IsZero() {
		t.Error("an id must carry its time")
	}
}

func TestIDsAreStrict(t *testing.T) {
	good := core.NewRunID().String()
	for _, s := range []string{
		"", strings.ToLower(good), good + "0", good[1:], "I" + good[1:], "8" + good[1:], good[:25] + " ",
		good[:25] + "\x00", strings.Repeat("é", 13), good[:25] + "U",
	} {
		if id, err := core.ParseRunID(s); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("%q reads as %v, %v", s, id, err)
		}
	}
}

func TestContentIDsAreStrict(t *testing.T) {
	// BLAKE3-256 of no bytes, from the algorithm's published test vectors.
	const empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
	if got := core.SumContent(nil).String(); got != empty {
		t.Fatalf("the id of no bytes is %s, want %s", got, empty)
	}
	for _, s := range []string{
		"", empty[1:], empty + "0", strings.ToUpper(empty), "+f" + empty[2:], "../" + empty[3:], strings.Repeat("é", 32), empty[:63] + "\n",
	} {
		if id, err := core.ParseContentID(s); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("%q reads as %v, %v", s, id, err)
		}
	}
}

func TestContentHasher(t *testing.T) {
	data := bytes.Repeat([]byte("abc"), 100_000)
	h := core.NewContentHasher()
	for i := 0; i < len(data); i += 777 {
		if _, err := h.Write(data[i:min(i+777, len(data))]); err != nil {
			t.Fatal(err)
		}
	}
	if h.ID() != core.SumContent(data) || !bytes.Equal(h.Sum(nil), h.Sum(nil)) || h.Size() != core.ContentIDSize {
		t.Error("piecewise and whole hash differ")
	}
	h.Reset()
	if h.ID() != core.SumContent(nil) {
		t.Error("a reset hasher must have seen nothing")
	}
}

func FuzzParseIDs(f *testing.F) {
	f.Add(core.NewWorkerID().String())
	f.Add(core.SumContent([]byte("seed")).String())
	f.Add("+f")
	f.Add(strings.Repeat("é", 32))
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := core.ParseWorkerID(s); err == nil && id.String() != s {
			t.Errorf("%q is accepted but spelled %q", s, id)
		}
		if id, err := core.ParseContentID(s); err == nil && id.String() != s {
			t.Errorf("%q is accepted but spelled %q", s, id)
		}
	})
}
