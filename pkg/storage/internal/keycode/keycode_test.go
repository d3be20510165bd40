package keycode

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// genKey makes keys out of the bytes whose order is easy to get wrong.
func genKey(ns core.Namespace) *rapid.Generator[core.Key] {
	segment := rapid.OneOf(
		rapid.StringOfN(rapid.SampledFrom([]rune{0, 1, 2, 'a', 'b'}), 0, 4, -1),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) }),
	)
	return rapid.Custom(func(t *rapid.T) core.Key {
		k := core.Key{Namespace: ns, Path: rapid.SliceOfN(segment, 0, 5).Draw(t, "path")}
		if rapid.Bool().Draw(t, "in a run") {
			k.Run = core.RunID{15: rapid.SampledFrom([]byte{0, 1, 2, 0xff}).Draw(t, "run")}
		}
		return k
	})
}

func TestOrderOfEncodingsIsOrderOfKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genKey("kit").Draw(t, "a"), genKey("kit").Draw(t, "b")
		if got, want := bytes.Compare(Append(nil, a), Append(nil, b)), sign(a.Compare(b)); got != want {
			t.Fatalf("encodings compare %d, keys %d", got, want)
		}
	})
}

func sign(n int) int { return min(max(n, -1), 1) }

func TestPrefixIsARangeOfBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := genKey("kit").Draw(t, "prefix")
		key := genKey("kit").Draw(t, "key")
		if rapid.Bool().Draw(t, "below") {
			key = prefix.Child(key.Path...)
		}
		lo, enc := Append(nil, prefix), Append(nil, key)
		hi := PrefixEnd(lo)
		in := bytes.Compare(enc, lo) >= 0 && (hi == nil || bytes.Compare(enc, hi) < 0)
		if in != prefix.Covers(key) {
			t.Fatalf("in the range: %v, covered: %v", in, prefix.Covers(key))
		}
		if in != bytes.HasPrefix(enc, lo) {
			t.Fatal("the range is not that of the prefix's bytes")
		}
	})
}

func TestDecodeIsTheReverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var arena Arena
		keys := rapid.SliceOfN(genKey("kit"), 1, 40).Draw(t, "keys")
		got := make([]core.Key, len(keys))
		for i, k := range keys {
			var err error
			if got[i], err = arena.Decode("kit", Append(nil, k)); err != nil {
				t.Fatal(err)
			}
		}
		for i, k := range keys { // after all of them, so that shared memory would show
			if !got[i].Equal(k) || len(got[i].Path) != len(k.Path) || got[i].Run != k.Run {
				t.Fatalf("key %d came back as %q, was %q", i, got[i], k)
			}
		}
	})
}

func TestGroupsAndNeighbours(t *testing.T) {
	plain, run := Append(nil, core.NewKey("a", "x")), Append(nil, core.NewKey("a", "x").InRun(core.RunID{1}))
	if g := Group(plain); !bytes.Equal(g, []byte{0}) || !IsGroup(g) || IsGroup(plain) {
		t.Errorf("group %x", g)
	}
	if g := Group(run); len(g) != GroupLenRun || !IsGroup(g) || IsGroup(run) {
		t.Errorf("group %x", g)
	}
	if Group(nil) != nil || Group(run[:5]) != nil || Group([]byte{7}) != nil {
		t.Error("something that is no encoding has a group")
	}
	if PrefixEnd([]byte{0xff, 0xff}) != nil || !bytes.Equal(PrefixEnd([]byte{1, 0xff}), []byte{2}) {
		t.Error("the end of a prefix of 0xff is wrong")
	}
	if n := Next(plain); bytes.Compare(n, plain) <= 0 || !bytes.HasPrefix(n, plain) {
		t.Errorf("next of %x is %x", plain, n)
	}
}

func TestDamagedEncodingsAreCorrupt(t *testing.T) {
	long := bytes.Repeat([]byte("x"), core.MaxKeyLen+1)
	for name, enc := range map[string][]byte{
		"empty": {}, "unknown tag": {2}, "short run": {1, 1}, "zero run": append([]byte{1}, make([]byte, 16)...),
		"no terminator": {0, 'a'}, "escape at the end": {0, 1, 0}, "unknown escape": {0, 1, 3, 0},
		"too many segments": make([]byte, 2+core.MaxKeySegments), "too long": append(append([]byte{0}, long...), 0),
	} {
		if k, err := Decode("kit", enc); !core.IsCode(err, core.CodeCorrupt) {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
}

func TestArenaPiecesDoNotOverlap(t *testing.T) {
	var a Arena
	var pieces [][]byte
	for i := range 3000 {
		b := a.Bytes(i % 97)
		for j := range b {
			b[j] = byte(i)
		}
		if cap(b) != len(b) {
			t.Fatal("a piece has spare capacity")
		}
		pieces = append(pieces, b)
	}
	for i, b := range pieces {
		if !bytes.Equal(b, bytes.Repeat([]byte{byte(i)}, i%97)) {
			t.Fatalf("piece %d was overwritten", i)
		}
	}
	if big := a.Bytes(1 << 20); len(big) != 1<<20 {
		t.Error("a large piece has another length")
	}
	if c := a.Copy(nil); c == nil || len(c) != 0 {
		t.Error("a copy of nothing is nil")
	}
}

// FuzzDecode: whatever decodes encodes to the same bytes again, and nothing panics.
func FuzzDecode(f *testing.F) {
	for _, k := range []core.Key{
		core.NewKey("kit"), core.NewKey("kit", ""), core.NewKey("kit", "\x00", "\x01\xff"), core.NewKey("kit", "a", "b").InRun(core.RunID{1}),
	} {
		f.Add(Append(nil, k))
	}
	f.Add([]byte{0, 1, 1, 0})
	f.Add([]byte{0, 'a', 1, 2, 'b', 0, 0})
	f.Fuzz(func(t *testing.T, enc []byte) {
		k, err := Decode("kit", enc)
		if err != nil {
			if !core.IsCode(err, core.CodeCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if err := k.Validate(); err != nil {
			t.Fatal(err)
		}
		if again := Append(nil, k); !bytes.Equal(again, enc) {
			t.Fatalf("%x decodes to %s, which encodes to %x", enc, k, again)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	key := core.NewKey("kit", string(bytes.Repeat([]byte("k"), 100)))
	buf := make([]byte, 0, 256)
	for b.Loop() {
		buf = Append(buf[:0], key)
	}
}
