package core

import (
	"context"
	"io"
	"iter"
	"strings"
)

// Namespace is the first part of every [Key]: a letter, then letters, digits
// and underscores, all lower case, 32 bytes at most. Any valid namespace can be
// used; the ones of the system itself are declared here once.
type Namespace string

// The namespaces of the system and what lies in each.
const (
	NamespaceMeta       Namespace = "meta"       // run id, epoch, format; one row each
	NamespaceWorkers    Namespace = "workers"    // <worker> -> registry row
	NamespaceHeartbeats Namespace = "heartbeats" // <worker> -> last coalesced beat
	NamespaceKeys       Namespace = "keys"       // <worker> -> first public key bound to the id
	NamespaceTokens     Namespace = "tokens"     // <token id> -> hash and limits of a join token
	NamespaceCommands   Namespace = "commands"   // <worker>/<seq> -> command not yet acknowledged
	NamespaceEvents     Namespace = "events"     // <seq> -> domain event, printed or waiting
	NamespacePlugins    Namespace = "plugins"    // <name> -> manifest, version, digest
	NamespaceJobs       Namespace = "jobs"       // <job> -> job row
	NamespaceItems      Namespace = "items"      // <job>/<index> -> item row
	NamespaceResults    Namespace = "results"    // <job>/<index> -> result row
	NamespaceCache      Namespace = "cache"      // <result key> -> content of a finished result
	NamespaceQueue      Namespace = "queue"      // <queue>/... -> see package cloudlocal
	NamespaceObjects    Namespace = "objects"    // <content id> -> references kept for collection
)

// Namespaces returns every namespace that the system itself uses, sorted by
// declaration.
func Namespaces() []Namespace {
	return []Namespace{
		NamespaceMeta, NamespaceWorkers, NamespaceHeartbeats, NamespaceKeys, NamespaceTokens,
		NamespaceCommands, NamespaceEvents, NamespacePlugins, NamespaceJobs, NamespaceItems,
		NamespaceResults, NamespaceCache, NamespaceQueue, NamespaceObjects,
	}
}

// Limits of one key and one value.
const (
	MaxNamespaceLen = 32      // bytes of a namespace
	MaxKeyLen       = 1 << 10 // bytes of all segments together
	MaxKeySegments  = 16      // segments of a path
	MaxValueLen     = 8 << 20 // bytes of one value
	MaxTxnBytes     = 64 << 20
	MaxTxnOps       = 1 << 20
)

// Validate returns nil for a valid namespace and [CodeInvalidArgument] otherwise.
func (n Namespace) Validate() error {
	ok := len(n) > 0 && len(n) <= MaxNamespaceLen && n[0] >= 'a' && n[0] <= 'z'
	for i := 0; ok && i < len(n); i++ {
		c := n[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_'
	}
	if !ok {
		return Errorf("storage key", CodeInvalidArgument, "namespace %q must be a lower-case letter followed by at most %d letters, digits or underscores", clip(string(n)), MaxNamespaceLen-1)
	}
	return nil
}

// Key addresses one row: a namespace, an optional run, and a path of segments.
// A segment is any bytes, empty included. Keys of one namespace are ordered by
// run (rows without a run first), then segment by segment as bytes, a path
// before its extensions.
//
// Used as a prefix, a Key covers itself and every key that continues its path
// with further whole segments, in the same namespace and with the same run. There
// is no wildcard: a prefix without a run covers only rows without a run.
type Key struct {
	Namespace Namespace // required
	Run       RunID     // zero: the row belongs to no run
	Path      []string  // at most MaxKeySegments segments, MaxKeyLen bytes together
}

// NewKey returns the key of that namespace and path that belongs to no run.
func NewKey(ns Namespace, path ...string) Key { return Key{Namespace: ns, Path: path} }

// InRun returns a copy of k that belongs to run.
func (k Key) InRun(run RunID) Key { k.Run = run; return k }

// Child returns a new key with further segments.
func (k Key) Child(segments ...string) Key {
	k.Path = append(append(make([]string, 0, len(k.Path)+len(segments)), k.Path...), segments...)
	return k
}

// Validate returns nil for a usable key and [CodeInvalidArgument] otherwise.
func (k Key) Validate() error {
	if err := k.Namespace.Validate(); err != nil {
		return err
	}
	if len(k.Path) > MaxKeySegments {
		return Errorf("storage key", CodeInvalidArgument, "path in %q has %d segments, at most %d are allowed", k.Namespace, len(k.Path), MaxKeySegments)
	}
	n := 0
	for _, s := range k.Path {
		n += len(s)
	}
	if n > MaxKeyLen {
		return Errorf("storage key", CodeInvalidArgument, "path in %q has %d bytes, at most %d are allowed", k.Namespace, n, MaxKeyLen)
	}
	return nil
}

// Compare orders keys as [Key] says and returns -1, 0 or 1. Keys of different
// namespaces compare by namespace.
func (k Key) Compare(o Key) int {
	if c := strings.Compare(string(k.Namespace), string(o.Namespace)); c != 0 {
		return c
	}
	if c := strings.Compare(string(k.Run[:]), string(o.Run[:])); c != 0 {
		return c
	}
	for i := 0; i < len(k.Path) && i < len(o.Path); i++ {
		if c := strings.Compare(k.Path[i], o.Path[i]); c != 0 {
			return c
		}
	}
	return len(k.Path) - len(o.Path)
}

// Equal reports whether both keys address the same row.
func (k Key) Equal(o Key) bool { return k.Compare(o) == 0 }

// Covers reports whether o lies below the prefix k.
func (k Key) Covers(o Key) bool {
	if k.Namespace != o.Namespace || k.Run != o.Run || len(o.Path) < len(k.Path) {
		return false
	}
	for i, s := range k.Path {
		if o.Path[i] != s {
			return false
		}
	}
	return true
}

// String returns "namespace[@run]/segment/segment" for people; it is not parsed.
func (k Key) String() string {
	s := string(k.Namespace)
	if !k.Run.IsZero() {
		s += "@" + k.Run.String()
	}
	for _, p := range k.Path {
		s += "/" + p
	}
	return s
}

// Entry is one row as it was read. A row that does not exist has Revision 0 and
// a nil Value.
type Entry struct {
	Key      Key    // as asked for, or as found by a scan
	Value    []byte // owned by the caller
	Revision uint64 // the commit that wrote the row; 0: absent
}

// Exists reports whether the row was there.
func (e Entry) Exists() bool { return e.Revision != 0 }

// ScanOptions narrows a scan. The zero value reads everything in ascending order.
type ScanOptions struct {
	Limit   int  // at most this many rows; 0: no limit
	After   *Key // start strictly behind this key in the direction of the scan; it need not exist, but must lie below the prefix
	Reverse bool // from the last row to the first
}

// Reader reads rows. Both [Storage] and [Txn] are readers.
type Reader interface {
	// GetMany returns one entry for each key, in the order of keys; absence is an
	// entry that does not exist, not an error. From a Storage all entries are
	// read from one committed state. A damaged row is [CodeCorrupt].
	GetMany(ctx context.Context, keys ...Key) ([]Entry, error)

	// Scan returns the rows below prefix in key order, read from one committed
	// state. A scan of a whole namespace or run also finds rows that vanished and
	// answers [CodeCorrupt], where the implementation keeps counts.
	Scan(ctx context.Context, prefix Key, opts ScanOptions) ([]Entry, error)

	// Iterate is Scan for results larger than memory. It reads ahead in bounded
	// pieces and pins nothing while the caller is slow, so rows that change
	// during the iteration may be seen old or new, but each key at most once and
	// in order. The first error ends the sequence and is its last element.
	Iterate(ctx context.Context, prefix Key, opts ScanOptions) iter.Seq2[Entry, error]
}

// Storage is an ordered, durable key-value store with optimistic transactions
// and a resumable watch.
//
// Isolation: committed transactions are serializable; each commit has one
// revision, higher than all before it, shared by every row it wrote. Nothing a
// caller does (a forgotten, slow or cancelled transaction, an iterator or watcher
// that nobody reads) blocks another caller.
//
// Durability: a commit that returned nil survives power loss. When a sync fails
// the store stops: every later commit is [CodeBroken] until it is opened again,
// because what the failed sync left on disk is unknown. A full disk is
// [CodeExhausted]: nothing of that transaction is stored, reads go on, and
// commits succeed again once there is room. Damage is [CodeCorrupt].
//
// Close waits for commits already submitted, ends all watchers with
// [CodeClosed], and releases the file.
type Storage interface {
	Reader

	// Begin starts a transaction. It takes no lock and costs no disk access. The
	// transaction must be finished by Commit or Discard only to free memory.
	Begin(ctx context.Context) (Txn, error)

	// Revision returns the revision of the last durable commit, 0 for a new store.
	Revision() uint64

	// Watch follows changes below prefix. From 0 starts with the first commit
	// after the call; otherwise the watch starts with revision from itself. It is
	// [CodeCompacted] when history no longer reaches back that far: scan, then
	// watch from the scanned revision + 1.
	Watch(ctx context.Context, prefix Key, from uint64) (Watcher, error)

	// Close is described above.
	Close() error
}

// Txn is one optimistic transaction. It belongs to one goroutine.
//
// Changes are staged in memory and visible to the transaction's own reads at
// once. Every key and range that was read is remembered, and Commit fails with
// [CodeConflict] when one of them has changed since. Reads made at different times may
// see different commits; only a successful Commit proves them to be one state, so
// nothing outside the transaction may be done on the strength of its reads before
// it commits.
//
// Keys and values are copied when staged. A transaction holds at most
// MaxTxnOps changes and MaxTxnBytes bytes; beyond that a change is
// [CodeTooLarge] and leaves the transaction usable.
type Txn interface {
	Reader

	// Put stages a write. The value may be empty but not larger than MaxValueLen.
	Put(key Key, value []byte) error

	// Delete stages a removal. Removing a row that is not there changes nothing
	// and produces no watch event.
	Delete(key Key) error

	// CompareAndSwap stages the replacement of old by new if the row's value is
	// old now, and reports whether it was. A nil old means the row must be absent
	// (insert only); a nil new removes the row; nil and nil on an absent row is
	// true and changes nothing. An empty value is not nil. The comparison is by
	// value, joins the read set either way, and is checked again at commit.
	CompareAndSwap(ctx context.Context, key Key, old, new []byte) (bool, error)

	// Commit makes the staged changes durable, all or none, and returns their
	// revision. A transaction without changes validates its reads and returns the
	// current revision. After a commit that ended with [CodeCanceled] or
	// [CodeDeadlineExceeded] the change may be durable or not; every other error
	// means that it is not. The transaction is finished in any case.
	Commit(ctx context.Context) (revision uint64, err error)

	// Discard forgets the transaction. It is safe after Commit and does nothing
	// then.
	Discard()
}

// ChangeKind tells a write from a removal.
type ChangeKind uint8

// The kinds of changes.
const (
	ChangePut    ChangeKind = 1
	ChangeDelete ChangeKind = 2
)

// Change is one row's change in one commit.
type Change struct {
	Kind  ChangeKind
	Key   Key
	Value []byte // of a put; nil for a delete. Shared by all watchers: read only
}

// Commit is what one transaction changed below a watched prefix.
type Commit struct {
	Revision uint64
	Changes  []Change // in key order, each key once, never empty
}

// Watcher delivers commits. It belongs to one goroutine, except Close.
//
// Start: the first commit delivered is the first below the prefix with a
// revision of at least the one asked for. Order and completeness: commits come
// in revision order, whole, each once, none left out, and only after they are
// durable. Slow consumer: nothing is buffered for a watcher; one that falls
// behind the bounded history gets [CodeCompacted] and is finished. End: Close of
// the watcher or store ends a waiting Next with [CodeClosed].
type Watcher interface {
	// Next waits for the next commit that changes something below the prefix.
	// When ctx ends it returns the context's error and the watcher stays usable.
	Next(ctx context.Context) (Commit, error)

	// Progress returns the highest revision up to which everything below the
	// prefix has been delivered, matching or not. Progress + 1 is where a new
	// watch resumes, also after [CodeCompacted].
	Progress() uint64

	// Close ends the watch.
	Close() error
}

// Backuper is a [Storage] that can be copied while it is open.
type Backuper interface {
	// Backup writes one consistent copy, which opens as a store of its own, and
	// returns its length in bytes. Commits go on meanwhile.
	Backup(ctx context.Context, w io.Writer) (int64, error)
}

// Get returns the row of key, or [CodeNotFound].
func Get(ctx context.Context, r Reader, key Key) (Entry, error) {
	es, err := r.GetMany(ctx, key)
	if err != nil {
		return Entry{}, err
	}
	if !es[0].Exists() {
		return Entry{Key: key}, Errorf("storage: get", CodeNotFound, "no row %s", key)
	}
	return es[0], nil
}

// PutBytes writes one row in a transaction of its own and returns its revision.
func PutBytes(ctx context.Context, s Storage, key Key, value []byte) (uint64, error) {
	tx, err := s.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Discard()
	if err := tx.Put(key, value); err != nil {
		return 0, err
	}
	return tx.Commit(ctx)
}

// DeleteKey removes one row in a transaction of its own; a row that is not there
// is no error.
func DeleteKey(ctx context.Context, s Storage, key Key) (uint64, error) {
	tx, err := s.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Discard()
	if err := tx.Delete(key); err != nil {
		return 0, err
	}
	return tx.Commit(ctx)
}

// Update runs fn in a transaction and commits it, again from the start whenever
// the commit meets [CodeConflict], until ctx ends. fn may run many times and must
// have no effect outside the transaction. An error of fn discards the transaction
// and is returned as it is, except a [CodeConflict] of a read, which runs fn again.
// It returns the revision of the commit.
func Update(ctx context.Context, s Storage, fn func(tx Txn) error) (uint64, error) {
	for {
		rev, err := updateOnce(ctx, s, fn)
		if !IsCode(err, CodeConflict) {
			return rev, err
		}
		if cerr := ctx.Err(); cerr != nil {
			return 0, Wrap("storage: update", CodeCanceled, cerr)
		}
	}
}

func updateOnce(ctx context.Context, s Storage, fn func(tx Txn) error) (uint64, error) {
	tx, err := s.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Discard()
	if err := fn(tx); err != nil {
		return 0, err
	}
	return tx.Commit(ctx)
}

// PendingRevision is the revision of a row that the reading [Txn] itself has
// staged: it exists, and has no revision of its own before the commit.
const PendingRevision uint64 = 1<<64 - 1
