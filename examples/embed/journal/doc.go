// Package journal is a [core.Storage] of some hundred lines, to show what an
// implementation of one's own takes: all rows in memory, in one sorted slice, and every
// commit as one line of JSON in a file that is synced before the commit is acknowledged
// and read again at the next start.
//
// The file only grows, so this is for small states. The conformance kit in
// store_test.go is what proves it; an implementation on another database would pass the
// same.
//
//	rows, revision, history   under one mutex: a commit is checked, written, applied
//	Txn                       staged changes, and what it has read, to be checked again
//	watcher                   a cursor into the history
package journal
