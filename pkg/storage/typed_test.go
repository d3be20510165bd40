package storage

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

type sample struct {
	Name   string
	Count  int
	When   time.Time
	Worker core.WorkerID
	Labels map[string]string
	ByID   map[int]map[uint16]float64
	Any    any
	List   []sample
	Next   *sample
	Bytes  []byte
}

func TestTypedRows(t *testing.T) {
	ctx := t.Context()
	s := memstore.New(memstore.Options{})
	defer mustClose(t, s)
	key := core.NewKey("kit", "a")
	_, _, err := Get[sample](ctx, s, key)
	wantCode(t, err, core.CodeNotFound)
	v := sample{
		Name: "é", Count: -7, When: time.Unix(1, 5).UTC(), Worker: core.WorkerID{1, 2}, Labels: map[string]string{"b": "1", "a": "2"},
		ByID: map[int]map[uint16]float64{-1: {2: 0.5, 1: 1}, 300: nil}, List: []sample{{Name: "inner"}}, Next: &sample{Count: 1}, Bytes: []byte{0, 1},
	}
	rev, err := PutOne(ctx, s, key, v)
	if err != nil {
		t.Fatal(err)
	}
	got, at, err := Get[sample](ctx, s, key)
	got.When, got.List[0].When, got.Next.When = got.When.UTC(), time.Time{}, time.Time{}
	if err != nil || at != rev || !reflect.DeepEqual(got, v) {
		t.Fatalf("%+v at %d, %v, want %+v", got, at, err, v)
	}
	_, err = core.Update(ctx, s, func(tx core.Txn) error {
		next := v
		next.Count++
		if ok, err := CAS(ctx, tx, key, &v, &next); err != nil || !ok {
			t.Errorf("swap of an equal value: %v, %v", ok, err)
		}
		if ok, err := CAS(ctx, tx, key, nil, &next); err != nil || ok {
			t.Errorf("insert where a row is: %v, %v", ok, err)
		}
		return Put(tx, core.NewKey("kit", "b"), next)
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := Scan[sample](ctx, s, core.NewKey("kit"), core.ScanOptions{})
	if err != nil || len(rows) != 2 || rows[0].Value.Count != -6 || rows[1].Key.Path[0] != "b" || rows[1].Revision != rev+1 {
		t.Fatalf("%+v, %v", rows, err)
	}
	many, err := GetMany[sample](ctx, s, core.NewKey("kit", "none"), key)
	if err != nil || many[0].Revision != 0 || many[1].Value.Count != -6 {
		t.Fatalf("%+v, %v", many, err)
	}
}

func TestEqualValuesHaveEqualEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(rapid.Int(), rapid.MapOf(rapid.String(), rapid.Bool())).Draw(t, "m")
		v := sample{ByID: map[int]map[uint16]float64{}, Any: map[string]any{"b": map[string]any{"y": 1, "x": 2}, "a": 1}}
		for k := range m {
			v.ByID[k] = map[uint16]float64{1: 1, 2: 2, 3: 3}
		}
		first, err := Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if again, err := Encode(v); err != nil || !bytes.Equal(first, again) {
				t.Fatalf("%x and %x (%v)", first, again, err)
			}
		}
		if back, err := Decode[sample](first); err != nil || !reflect.DeepEqual(back.ByID, v.ByID) {
			t.Fatalf("%v came back as %v (%v)", v.ByID, back.ByID, err)
		}
	})
}

func TestWhatDoesNotFitIsASchemaViolation(t *testing.T) {
	b, err := Encode("text")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Decode[sample](b)
	wantCode(t, err, core.CodeSchemaViolation, "sample")
	_, err = Decode[string](append(b, 1))
	wantCode(t, err, core.CodeSchemaViolation, "follow")
	_, err = Decode[string](nil)
	wantCode(t, err, core.CodeSchemaViolation)
	_, err = Encode(func() {})
	wantCode(t, err, core.CodeInvalidArgument)
	s := memstore.New(memstore.Options{})
	defer mustClose(t, s)
	if _, err := core.PutBytes(t.Context(), s, core.NewKey("kit", "a"), []byte{0xc1}); err != nil {
		t.Fatal(err)
	}
	_, _, err = Get[int](t.Context(), s, core.NewKey("kit", "a"))
	wantCode(t, err, core.CodeSchemaViolation, "kit/a")
}

func TestUintSegmentsOrderAsNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		if (UintSegment(a) < UintSegment(b)) != (a < b) {
			t.Fatalf("%x and %x", UintSegment(a), UintSegment(b))
		}
		if back, err := ParseUintSegment(UintSegment(a)); err != nil || back != a {
			t.Fatal(back, err)
		}
	})
	for _, s := range []string{"", "1", "\x11", "\x12\x00\x01", "\x1912345678", "\x10\x00"} {
		_, err := ParseUintSegment(s)
		wantCode(t, err, core.CodeSchemaViolation)
	}
}

func FuzzSortMaps(f *testing.F) {
	for _, v := range []any{map[int]string{2: "b", 1: "a"}, []any{nil, true, 1.5, -3, "x", []byte("y"), time.Unix(1, 2)}, map[string]any{"z": map[bool]int{true: 1}}} {
		b, err := Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff, 0x91, 0x91})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := sortMaps(b)
		if err != nil {
			return
		}
		if len(out) != len(b) {
			t.Fatalf("%x became %x", b, out)
		}
		if again, err := sortMaps(out); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%x became %x, then %x (%v)", b, out, again, err)
		}
	})
}

func FuzzDecodeTyped(f *testing.F) {
	b, err := Encode(sample{Name: "x", Labels: map[string]string{"a": "b"}, List: []sample{{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Decode[sample](b); err != nil && !core.IsCode(err, core.CodeSchemaViolation) {
			t.Fatal(err)
		}
	})
}
