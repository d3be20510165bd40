package cli

import (
	"context"
	"encoding/hex"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// marker finds ids of stored objects in bytes whose form it does not know. It errs
// on the side of keeping: whatever looks like an id is a reference.
type marker struct {
	marked map[core.ContentID]bool // every stored object, true once it was found
	starts [1 << 16 / 64]uint64    // the first two bytes with which any of them begins
}

// newMarker lists the objects that are there. Those put later are too young to go.
func newMarker(ctx context.Context, s *cloudlocal.Objects) (*marker, error) {
	m := &marker{marked: map[core.ContentID]bool{}}
	for info, err := range s.List(ctx, core.ContentID{}) {
		if err != nil && !core.IsCode(err, core.CodeCorrupt) {
			return nil, err
		}
		m.add(info.ID)
	}
	return m, nil
}

func (m *marker) add(id core.ContentID) {
	m.marked[id] = false
	n := int(id[0])<<8 | int(id[1])
	m.starts[n/64] |= 1 << (n % 64)
}

func (m *marker) mark(id core.ContentID) {
	if _, known := m.marked[id]; known {
		m.marked[id] = true
	}
}

func (m *marker) live(id core.ContentID) bool {
	found, known := m.marked[id]
	return found || !known
}

// search marks every id in b: 32 bytes as they are, or 64 hexadecimal digits.
func (m *marker) search(b []byte) {
	for i := 0; i+core.ContentIDSize <= len(b); i++ {
		if n := int(b[i])<<8 | int(b[i+1]); m.starts[n/64]&(1<<(n%64)) != 0 {
			m.mark(core.ContentID(b[i : i+core.ContentIDSize]))
		}
	}
	digits := 0
	for i, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			digits = 0
			continue
		}
		if digits++; digits >= 2*core.ContentIDSize {
			var id core.ContentID
			if _, err := hex.Decode(id[:], b[i+1-2*core.ContentIDSize:i+1]); err == nil {
				m.mark(id)
			}
		}
	}
}
