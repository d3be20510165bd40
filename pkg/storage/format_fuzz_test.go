package storage

import (
	"bytes"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// FuzzEnvelope opens arbitrary bytes as a stored row: what is accepted is exactly
// what would be stored for that row.
func FuzzEnvelope(f *testing.F) {
	seed := envelopeSeed(core.NamespaceItems)
	for _, value := range []string{"", "v", "a longer value"} {
		stored, _ := appendEnvelope(nil, seed, []byte("key"), 1<<40, []byte(value))
		f.Add([]byte("key"), stored)
		f.Add([]byte("other"), stored)
	}
	f.Add([]byte{}, []byte{envelopeVersion, 0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1})
	f.Fuzz(func(t *testing.T, key, stored []byte) {
		r, ok := openEnvelope(stored, seed, key)
		if !ok {
			return
		}
		again, crc := appendEnvelope(nil, seed, key, r.rev, r.value)
		if r.rev == 0 || crc != r.crc {
			t.Errorf("%x is accepted with revision %d and checksum %08x instead of %08x", stored, r.rev, r.crc, crc)
		}
		if len(again) == len(stored) && !bytes.Equal(again, stored) {
			t.Errorf("%x is accepted, %x is what would be stored", stored, again)
		}
	})
}

// FuzzOwnRows reads arbitrary bytes as rows of the store's own bucket.
func FuzzOwnRows(f *testing.F) {
	key := groupKey(core.NamespaceItems, []byte{1})
	f.Add(keyFormat, encodeFormat(FormatVersion))
	f.Add(keyFormat, encodeFormat(FormatVersion+1))
	f.Add(keyHead, head{revision: 1 << 50, groups: 3}.encode())
	f.Add(key, groupStat{rows: 9, sum: 1 << 60}.encode(key))
	f.Fuzz(func(t *testing.T, key, sealed []byte) {
		err := checkFormat("fuzz", "file", sealed)
		if code := core.CodeOf(err); err != nil && code != core.CodeCorrupt && code != core.CodeVersionMismatch {
			t.Errorf("a format row gives %v", err)
		}
		if h, ok := decodeHead(sealed); ok {
			if again, ok := decodeHead(h.encode()); !ok || again != h {
				t.Errorf("%x is read as %+v, and written again as %+v", sealed, h, again)
			}
		}
		if ns, _, ok := splitGroupKey(key); ok && ns.Validate() != nil {
			t.Errorf("%x names the namespace %q", key, ns)
		}
		if g, ok := decodeGroup(key, sealed); ok && g.rows == 0 {
			t.Errorf("%x is a group without rows", sealed)
		}
	})
}
