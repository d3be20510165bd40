package storage

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// FormatVersion is the version of the file format that this package writes. A
// file of a newer version is refused with [core.CodeVersionMismatch].
const FormatVersion = 1

const formatMagic = "rollout storage"

// Keys of the store's own bucket. Its name is no valid namespace.
var (
	bucketOwn = []byte("!")
	keyFormat = []byte("format")
	keyHead   = []byte("head")
)

const groupKeyTag = 'g'

// seal appends the checksum of one row of the store's own bucket to its value.
func seal(key, value []byte) []byte {
	return binary.LittleEndian.AppendUint32(value, sealSum(key, value))
}

func sealSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Update(crc32.Checksum(bucketOwn, castagnoli), castagnoli, key), castagnoli, value)
}

// unseal returns the value that seal was given; ok is false when it is damaged.
func unseal(key, sealed []byte) (value []byte, ok bool) {
	n := len(sealed) - 4
	if n < 0 {
		return nil, false
	}
	return sealed[:n], binary.LittleEndian.Uint32(sealed[n:]) == sealSum(key, sealed[:n])
}

func encodeFormat(version uint64) []byte {
	return seal(keyFormat, binary.AppendUvarint([]byte(formatMagic), version))
}

// checkFormat returns why the file cannot be read by this version, if so.
func checkFormat(op, path string, sealed []byte) error {
	value, ok := unseal(keyFormat, sealed)
	if !ok || !bytes.HasPrefix(value, []byte(formatMagic)) {
		return core.Errorf(op, core.CodeCorrupt, "%s: the format row is damaged: %s", path, adviceDamaged)
	}
	version, n := binary.Uvarint(value[len(formatMagic):])
	if n <= 0 {
		return core.Errorf(op, core.CodeCorrupt, "%s: the format row is damaged: %s", path, adviceDamaged)
	}
	if version > FormatVersion {
		return core.Errorf(op, core.CodeVersionMismatch, "%s has storage format %d and this program knows formats up to %d: use the program that wrote the file, or a newer one", path, version, FormatVersion)
	}
	return nil
}

// adviceDamaged ends the message about a file that cannot be used.
const adviceDamaged = "restore it from a backup with 'rollout store restore', or move it away to start empty"

// head is the store's state beside its rows.
type head struct {
	revision uint64
	groups   uint64 // groups that hold rows
}

func (h head) encode() []byte {
	return seal(keyHead, binary.AppendUvarint(binary.AppendUvarint(nil, h.revision), h.groups))
}

func decodeHead(sealed []byte) (h head, ok bool) {
	value, ok := unseal(keyHead, sealed)
	if !ok {
		return head{}, false
	}
	var n, m int
	if h.revision, n = binary.Uvarint(value); n <= 0 {
		return head{}, false
	}
	h.groups, m = binary.Uvarint(value[n:])
	return h, m > 0 && n+m == len(value)
}

// groupStat sums up the rows of one group.
type groupStat struct {
	rows uint64
	sum  uint64 // of the rows' checksums
}

func (g *groupStat) add(crc uint32)    { g.rows++; g.sum += uint64(crc) }
func (g *groupStat) remove(crc uint32) { g.rows--; g.sum -= uint64(crc) }

// groupKey returns the key of a group's row in the store's own bucket, where
// group is the leading part of an encoded key.
func groupKey(ns core.Namespace, group []byte) []byte {
	k := make([]byte, 0, 2+len(ns)+len(group))
	k = append(append(k, groupKeyTag), ns...)
	return append(append(k, 0), group...)
}

// splitGroupKey is the reverse of groupKey.
func splitGroupKey(k []byte) (ns core.Namespace, group []byte, ok bool) {
	at := bytes.IndexByte(k, 0)
	if at < 2 || k[0] != groupKeyTag {
		return "", nil, false
	}
	ns, group = core.Namespace(k[1:at]), k[at+1:]
	return ns, group, ns.Validate() == nil && keycode.IsGroup(group)
}

func (g groupStat) encode(key []byte) []byte {
	v := binary.AppendUvarint(make([]byte, 0, 24), g.rows)
	return seal(key, binary.LittleEndian.AppendUint64(v, g.sum))
}

func decodeGroup(key, sealed []byte) (g groupStat, ok bool) {
	value, ok := unseal(key, sealed)
	if !ok {
		return groupStat{}, false
	}
	var n int
	g.rows, n = binary.Uvarint(value)
	if n <= 0 || len(value) != n+8 {
		return groupStat{}, false
	}
	g.sum = binary.LittleEndian.Uint64(value[n:])
	return g, g.rows > 0
}

// storedGroup reads the sum of one group in the state that tx sees; a group
// without rows has none.
func storedGroup(op string, tx *bolt.Tx, ns core.Namespace, group []byte) (groupStat, error) {
	own := tx.Bucket(bucketOwn)
	if own == nil {
		return groupStat{}, core.Errorf(op, core.CodeCorrupt, "the store's own bucket is gone")
	}
	key := groupKey(ns, group)
	sealed := own.Get(key)
	if sealed == nil {
		return groupStat{}, nil
	}
	g, ok := decodeGroup(key, sealed)
	if !ok {
		return groupStat{}, core.Errorf(op, core.CodeCorrupt, "the row count of namespace %q is damaged", ns)
	}
	return g, nil
}

// storedHead reads the head row in the state that tx sees.
func storedHead(op string, tx *bolt.Tx) (head, error) {
	if own := tx.Bucket(bucketOwn); own != nil {
		if h, ok := decodeHead(own.Get(keyHead)); ok {
			return h, nil
		}
	}
	return head{}, core.Errorf(op, core.CodeCorrupt, "the head row is damaged")
}
