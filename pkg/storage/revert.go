package storage

import (
	"encoding/binary"
	"hash/fnv"
)

const (
	metaTxidAt = 48 // of the meta record: the number of its transaction
	pageIDAt   = 0  // of the page header
)

// revertMeta takes back the meta page of transaction id, whose last sync failed:
// bbolt would show that transaction to readers although its callers are told that
// it is not stored. The page becomes a second way to the rows of the transaction
// before, as an empty commit would leave it, so that reads go on, and a later
// opening finds those rows too if the disk takes the page.
func (s *Store) revertMeta(id uint64) error {
	page := make([]byte, pageHeaderLen+metaLen)
	size := int64(s.pageSize)
	if err := readFull(s.file, page, int64((id-1)%2)*size); err != nil {
		return err
	}
	meta := page[pageHeaderLen:]
	binary.NativeEndian.PutUint64(page[pageIDAt:], id%2)
	binary.NativeEndian.PutUint64(meta[metaTxidAt:], id-2)
	sum := fnv.New64a()
	sum.Write(meta[:metaSumAt]) //nolint:errcheck // a hash takes everything
	binary.NativeEndian.PutUint64(meta[metaSumAt:], sum.Sum64())
	_, err := s.file.WriteAt(page, int64(id%2)*size)
	return err
}
