package storage

import bolt "go.etcd.io/bbolt"

// hooks are set by tests of this package alone, to plant a defect that a harness
// must find or to stop at a place inside a commit. The zero value changes nothing.
type hooks struct {
	ackEarly     bool // Commit returns before the transaction is durable
	publishEarly bool // watchers are told before the transaction is durable
	noChecksum   bool // checksums, counts and sums are not compared
	noSync       bool // bbolt commits without a sync

	// commit stands in for bbolt's commit of tx, to fail as a disk would.
	commit func(tx *bolt.Tx) error

	// at is called by the committer at each of the points below, from its own
	// goroutine. It may block, and may not call the store.
	at func(point hookPoint)
}

// hookPoint is a place inside a commit.
type hookPoint string

// The places, in the order in which a commit passes them.
const (
	hookStaged    hookPoint = "staged"    // the group is validated and put into bbolt, nothing is on disk
	hookDurable   hookPoint = "durable"   // bbolt's commit returned, watchers know nothing
	hookPublished hookPoint = "published" // watchers are told, the callers are not answered
)

// reach calls the hook of a point.
func (h *hooks) reach(point hookPoint) {
	if h.at != nil {
		h.at(point)
	}
}
