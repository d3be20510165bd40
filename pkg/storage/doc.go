// Package storage is [core.Storage] on one bbolt file, synced at every commit.
//
// # The tree
//
//	<namespace>                  one bucket for each namespace that has ever held a row
//	    <key>                 -> envelope: format, checksum, revision, value
//	!                            the store's own bucket, kept inline in the root page
//	    format                -> magic text and format version
//	    head                  -> last revision, number of groups
//	    g<namespace>00<group> -> row count and sum of row checksums
//
// A key is encoded by package keycode: the run, then the path, in an order-
// preserving form in which a path prefix is a byte range. A group is the rows of
// one namespace that belong to one run, or to none.
//
// # Damage
//
// bbolt verifies nothing but its two meta pages. Three things close the gap. The
// raw pages are walked before bbolt sees them, so that a damaged tree is an error
// and not a panic. Every row carries a CRC-32C over namespace, key, revision and
// value, compared at every read. And each group's count and order-free sum of
// checksums is brought up to date in every commit and compared by a walk over all
// rows at [Open], by [Store.Check] and by every scan of a whole group, which shows
// rows that vanished. What comes back is [core.CodeCorrupt], never a wrong value.
//
// bbolt alternates between two meta pages. An idle store and Close make one empty
// commit, after which both lead to the same rows, so that losing either loses
// nothing.
//
// # Commits
//
// Transactions are staged in memory (package txn) and committed in groups: the
// caller that finds nobody committing does it on its own goroutine, at once, and
// takes along whatever others have queued meanwhile. Each member has a revision
// of its own and fails alone. A reader never sees a state that is not yet synced:
// one that begins while a commit's last sync is under way waits for it.
//
// # Files
//
// The file has mode 0600 in a directory of mode 0700 and is locked with flock for
// as long as it is open. A new file appears under its name only when it is
// complete.
package storage
