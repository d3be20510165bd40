package storage

import (
	"bytes"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestEnvelopeSeedIsTheChecksumOfVersionAndNamespace(t *testing.T) {
	for _, ns := range core.Namespaces() {
		want := crc32.Checksum(append([]byte{envelopeVersion}, string(ns)+"\x00"...), castagnoli)
		if got := envelopeSeed(ns); got != want {
			t.Errorf("%s: %08x, want %08x", ns, got, want)
		}
	}
}

func TestEnvelopeOpensOnlyWhereItWasSealed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		rev := rapid.Uint64Min(1).Draw(t, "revision")
		seed := envelopeSeed("kit")
		stored, crc := appendEnvelope(nil, seed, key, rev, value)
		r, ok := openEnvelope(stored, seed, key)
		if !ok || r.rev != rev || !bytes.Equal(r.value, value) || r.crc != crc || len(stored) > envelopeMax+len(value) {
			t.Fatalf("got %v %v", r, ok)
		}
		if _, ok := openEnvelope(stored, envelopeSeed("other"), key); ok {
			t.Fatal("it opened in another namespace")
		}
		if _, ok := openEnvelope(stored, seed, append([]byte("x"), key...)); ok {
			t.Fatal("it opened under another key")
		}
		at := rapid.IntRange(0, len(stored)*8-1).Draw(t, "bit")
		stored[at/8] ^= 1 << (at % 8)
		if _, ok := openEnvelope(stored, seed, key); ok {
			t.Fatalf("it opened with bit %d flipped", at)
		}
	})
}
