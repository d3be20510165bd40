package cloudlocal

import (
	"runtime"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// TestUnpackBelievesNoLength gives it records that promise what they do not have, and
// wants that they cost nothing, and all kinds of values that are whole.
func TestUnpackBelievesNoLength(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, b := range map[string][]byte{
		"empty":        {},
		"bytes":        {0x98, 0x01, 0xc6, 0xff, 0xff, 0xff, 0xff},
		"string":       {0xdb, 0xff, 0xff, 0xff, 0xff, 'x'},
		"array":        {0xdd, 0xff, 0xff, 0xff, 0xff},
		"array within": {0x92, 0x01, 0xdd, 0x0f, 0xff, 0xff, 0xff, 0x01},
		"map":          {0xdf, 0xff, 0xff, 0xff, 0xff},
		"extension":    {0xc9, 0xff, 0xff, 0xff, 0xff, 0x01},
		"nested":       {0x9f, 0x9f, 0x9f, 0x9f},
		"cut length":   {0xc6, 0x00},
		"no value":     {0xc1},
	} {
		var r itemRecord
		if err := Unpack(b, &r); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("%d bytes were taken", after.TotalAlloc-before.TotalAlloc)
	}
	for _, v := range []any{nil, true, -1, -100, 1 << 40, uint8(200), uint16(60000), uint32(1 << 31), uint64(1 << 63), int8(-100), int16(-30000), int32(-1 << 31), int64(-1 << 63),
		float32(1.5), 2.5, "", "short", string(make([]byte, 40)), string(make([]byte, 300)), string(make([]byte, 70_000)), make([]byte, 10), make([]byte, 300), make([]byte, 70_000),
		[]int{1, 2}, make([]string, 20), make([]bool, 70_000), map[string]int{"a": 1, "b": 2}} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if err := Unpack(append(b, "rest"...), &back); err != nil {
			t.Errorf("%T of %d bytes: %v", v, len(b), err)
		}
		if err := checkPacked(b[:len(b)-1]); err == nil && len(b) > 1 {
			t.Errorf("%T of %d bytes, less the last: accepted", v, len(b))
		}
	}
}

// FuzzUnpack: whatever is accepted by the walk is decoded or refused without harm.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0x92, 0x01, 0xa1, 'x'})
	f.Add([]byte{0xdd, 0x0f, 0xff, 0xff, 0xff})
	f.Add([]byte{0x81, 0xa1, 'k', 0xc4, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var any any
		if err := Unpack(b, &any); err == nil && checkPacked(b) != nil {
			t.Fatal("decoded what the walk refuses")
		}
	})
}
