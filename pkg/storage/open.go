package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/txn"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

const (
	opOpen   = "storage: open"
	opGet    = "storage: get"
	opScan   = "storage: scan"
	opCommit = "storage: commit"
	opCheck  = "storage: check"
	opBackup = "storage: backup"
)

// Store is a [core.Storage] in one file. It also is a [core.Backuper].
type Store struct {
	cfg  Config
	log  *slog.Logger
	hook hooks
	db   *bolt.DB
	file *os.File // owned by db
	hist *watchlog.Log

	pages    pageStats // what the page walk met at open
	pageSize int       // bytes
	keyBufs  sync.Pool // *[]byte for encoded keys, which bbolt's cursor would force to the heap
	revision atomic.Uint64
	durable  atomic.Uint64 // newest bbolt transaction that is known to be synced

	// lead holds a token while somebody commits. Its owner alone uses db for
	// writing and the fields of commitState.
	lead  chan struct{}
	state commitState
	slots chan struct{} // one token for each queued request

	groupChanges, groupBytes int // bounds of a group

	// queueMu guards the queue, entries to the store and its end. Nothing waits
	// under it.
	queueMu sync.Mutex
	queue   []*request
	closing bool
	active  sync.WaitGroup // commits and idle commits under way

	// settleMu guards what readers wait for: the end of a commit whose meta page
	// is written but not synced.
	settleMu sync.Mutex
	settled  chan struct{} // closed when the running commit ends; nil: nobody waits
	broken   error         // why no further commit is accepted; also read by readers

	idle      *time.Timer // fires once the store may be idle
	closeOnce sync.Once
	closeErr  error
}

// commitState belongs to the holder of the lead.
type commitState struct {
	groups    map[string]groupStat // by groupKey, of the last committed state
	revision  uint64               // last committed
	lastGroup int                  // transactions in the last group
	unpaired  bool                 // the two meta pages lead to different rows
	armed     bool                 // the idle timer runs
	last      time.Time            // end of the last commit
	wedged    bool                 // bbolt panicked and may hold its locks for ever
}

var (
	_ core.Storage  = (*Store)(nil)
	_ core.Backuper = (*Store)(nil)
	_ txn.Backend   = (*Store)(nil)
)

// Open opens the store at cfg.Path, makes it if it is missing, and verifies every
// page and row of it: a tenth of a second for 100,000 rows.
//
// Errors: [core.CodeBusy] names the process that holds the file;
// [core.CodeCorrupt] is damage or a file of another kind,
// [core.CodeVersionMismatch] a newer format, [core.CodeNotFound] a missing file
// with ReadOnly, [core.CodeConfigInvalid] a bad cfg. A file that cannot be opened
// is not changed.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.Defaults()
	if !cfg.ReadOnly {
		if err := ensureFile(cfg.Path); err != nil {
			return nil, err
		}
	}
	f, err := openLocked(ctx, cfg.Path, cfg.ReadOnly, cfg.LockTimeout)
	if err != nil {
		return nil, err
	}
	metas, pages, err := inspect(f, cfg)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := newStore(cfg, f)
	s.pages, s.pageSize = pages, metas.pageSize
	// From here on bbolt owns the file and closes it.
	if err := s.openBolt(); err != nil {
		if cerr := f.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
			err = errors.Join(err, cerr) // bbolt panicked and left it open
		}
		return nil, err
	}
	if err := s.start(ctx, metas); err != nil {
		return nil, errors.Join(err, s.closeBolt())
	}
	return s, nil
}

func newStore(cfg Config, f *os.File) *Store {
	return &Store{
		cfg: cfg, log: cfg.Logger, hook: cfg.hooks, file: f,
		lead:  make(chan struct{}, 1),
		slots: make(chan struct{}, cfg.QueueDepth),

		groupChanges: min(groupChanges, cfg.HistoryEvents/2),
		groupBytes:   min(groupBytes, cfg.HistoryBytes/2),

		keyBufs: sync.Pool{New: func() any { b := make([]byte, 0, 256); return &b }},
	}
}

// inspect looks at the raw file before bbolt does.
func inspect(f *os.File, cfg Config) (metaState, pageStats, error) {
	info, err := f.Stat()
	if err != nil {
		return metaState{}, pageStats{}, openError(cfg.Path, err)
	}
	if info.Size() == 0 {
		return metaState{}, pageStats{}, core.Errorf(opOpen, core.CodeCorrupt, "%s is empty and was never a store: %s", cfg.Path, adviceDamaged)
	}
	metas, err := readMetas(f, info.Size())
	if metas.foreign() {
		return metas, pageStats{}, core.Errorf(opOpen, core.CodeCorrupt, "%s is no store, or one whose beginning is lost: check the path, or %s", cfg.Path, adviceDamaged)
	}
	if err != nil {
		return metas, pageStats{}, damagedFile(cfg.Path, err)
	}
	if err := metas.damaged(); err != nil && (cfg.ReadOnly || !cfg.RepairMeta) {
		return metas, pageStats{}, damagedFile(cfg.Path, err)
	}
	pages, err := walkPages(f, metas)
	if err != nil {
		return metas, pages, damagedFile(cfg.Path, err)
	}
	if !cfg.ReadOnly && info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return metas, pages, openError(cfg.Path, err)
		}
	}
	return metas, pages, nil
}

func damagedFile(path string, err error) error {
	if !core.IsCode(err, core.CodeCorrupt) {
		return core.Wrap(opOpen, core.CodeUnavailable, err)
	}
	return core.Errorf(opOpen, core.CodeCorrupt, "%s is damaged: %w; %s", path, err, adviceDamaged)
}

// openBolt hands the file to bbolt, which closes it when it returns an error.
func (s *Store) openBolt() error {
	return guarded(opOpen, func() error {
		db, err := bolt.Open(s.cfg.Path, 0o600, boltOptions(s.file, s.cfg))
		if err != nil {
			return core.Errorf(opOpen, core.CodeCorrupt, "%s: %w: %s", s.cfg.Path, err, adviceDamaged)
		}
		s.db = db
		if s.cfg.MaxBytes > 0 {
			db.AllocSize = int(s.cfg.allocBytes())
		}
		return nil
	})
}

// start reads and verifies everything and makes the store ready.
func (s *Store) start(ctx context.Context, metas metaState) error {
	s.durable.Store(metas.pages[metas.active].txid)
	var r Report
	err := s.view(ctx, opOpen, func(tx *bolt.Tx) (err error) {
		s.state.groups, r, err = s.verify(ctx, opOpen, tx)
		return err
	})
	if err != nil {
		return err
	}
	s.state.revision = r.Revision
	s.revision.Store(r.Revision)
	s.hist = watchlog.New(s.cfg.HistoryEvents, s.cfg.HistoryBytes, r.Revision)
	s.idle = time.AfterFunc(time.Hour, s.idleCommit)
	s.idle.Stop()
	if s.cfg.ReadOnly {
		return nil
	}
	return s.settleFile(metas)
}

// settleFile makes what was read durable, since an earlier process may have ended
// before its last sync, and lets both meta pages lead to it.
func (s *Store) settleFile(metas metaState) error {
	damaged := metas.damaged()
	if damaged != nil {
		s.log.Warn("storage: one meta page is damaged; opened from the other one, which may lack the last commit, and wrote it again", "path", s.cfg.Path, "err", damaged)
	}
	if !s.hook.noSync {
		if err := s.db.Sync(); err != nil {
			return core.Wrap(opOpen, core.CodeBroken, err)
		}
	}
	if damaged == nil && metas.pages[0].root == metas.pages[1].root {
		return nil
	}
	err := s.emptyCommit()
	if core.IsCode(err, core.CodeExhausted) {
		s.log.Warn("storage: no room to write the second meta page; it follows with the next commit", "path", s.cfg.Path, "err", err)
		s.state.unpaired = true
		return nil
	}
	return err
}

// guarded runs fn and turns a panic, or a fault in the mapped file, into
// [core.CodeCorrupt]: a damaged file makes bbolt do either.
func guarded(op string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = panicked(op, r)
		}
	}()
	return fn()
}

func panicked(op string, reason any) error {
	return core.Errorf(op, core.CodeCorrupt, "the file is damaged, reading it failed with: %v; %s", reason, adviceDamaged)
}

// Revision implements [core.Storage].
func (s *Store) Revision() uint64 { return s.revision.Load() }

// Path returns the file's name as it was given.
func (s *Store) Path() string { return s.cfg.Path }

// Size returns the length of the file in bytes.
func (s *Store) Size() (int64, error) {
	info, err := os.Stat(s.cfg.Path)
	if err != nil {
		return 0, openError(s.cfg.Path, err)
	}
	return info.Size(), nil
}

// Watch implements [core.Storage].
func (s *Store) Watch(ctx context.Context, prefix core.Key, from uint64) (core.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap("storage: watch", core.CodeCanceled, err)
	}
	return s.hist.Watch(prefix, from)
}
