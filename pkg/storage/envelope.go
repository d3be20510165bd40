package storage

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Layout of a stored row:
//
//	u8      format version
//	u32     CRC-32C, little endian, over namespace, 0x00, key, and all that follows
//	uvarint revision
//	...     value
const (
	envelopeVersion = 1
	envelopeCRCAt   = 1
	envelopeRevAt   = envelopeCRCAt + 4
	envelopeMax     = envelopeRevAt + binary.MaxVarintLen64 // bytes before the value, at most
)

// castagnoli is the polynomial with hardware support. Read only.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelopeSeed returns the checksum of what precedes the key, which is the same
// for all rows of a namespace. It goes byte by byte, because a name is short and
// crc32.Update would force it to the heap.
func envelopeSeed(ns core.Namespace) uint32 {
	crc := ^uint32(0)
	add := func(b byte) { crc = castagnoli[byte(crc)^b] ^ crc>>8 }
	add(envelopeVersion)
	for i := range len(ns) {
		add(ns[i])
	}
	add(0)
	return ^crc
}

// appendEnvelope appends the stored form of a row to dst and returns its checksum.
func appendEnvelope(dst []byte, seed uint32, key []byte, rev uint64, value []byte) ([]byte, uint32) {
	at := len(dst)
	dst = append(dst, envelopeVersion, 0, 0, 0, 0)
	dst = binary.AppendUvarint(dst, rev)
	dst = append(dst, value...)
	crc := crc32.Update(crc32.Update(seed, castagnoli, key), castagnoli, dst[at+envelopeRevAt:])
	binary.LittleEndian.PutUint32(dst[at+envelopeCRCAt:], crc)
	return dst, crc
}

// row is a stored row, verified. Its value lies in the memory it was read from.
type row struct {
	rev   uint64
	value []byte
	crc   uint32
}

// openEnvelope verifies a stored row. ok is false when it is damaged, or when
// stored is nil, as bbolt returns it for a bucket.
func openEnvelope(stored []byte, seed uint32, key []byte) (r row, ok bool) {
	if len(stored) <= envelopeRevAt || stored[0] != envelopeVersion {
		return row{}, false
	}
	rev, n := binary.Uvarint(stored[envelopeRevAt:])
	if n <= 0 || rev == 0 {
		return row{}, false
	}
	r = row{rev: rev, value: stored[envelopeRevAt+n:], crc: binary.LittleEndian.Uint32(stored[envelopeCRCAt:])}
	sum := crc32.Update(crc32.Update(seed, castagnoli, key), castagnoli, stored[envelopeRevAt:])
	return r, sum == r.crc
}

// errDamagedRow names the row whose checksum does not hold.
func errDamagedRow(op string, ns core.Namespace, key []byte) error {
	if len(key) > 80 {
		key = key[:80]
	}
	return core.Errorf(op, core.CodeCorrupt, "row %x in namespace %q is damaged: its checksum does not match", key, ns)
}
