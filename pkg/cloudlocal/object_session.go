package cloudlocal

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"strconv"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxSessions bounds the directories that one open store keeps files on their way
// in. Puts that run at the same time use different ones, because a directory takes
// or gives one name at a time.
const maxSessions = 16

// sessions are the directories of one open store.
type sessions struct {
	fs fileSystem

	mu   sync.Mutex
	all  []*session // guarded by mu
	free []*session // guarded by mu: those that no put uses
	turn int        // guarded by mu: whose turn it is when all are in use
}

// take returns a session for one put, the one used last if it is free.
func (ss *sessions) take() *session {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if n := len(ss.free); n > 0 {
		s := ss.free[n-1]
		ss.free = ss.free[:n-1]
		s.users++
		return s
	}
	if len(ss.all) < maxSessions {
		s := &session{fs: ss.fs, users: 1}
		ss.all = append(ss.all, s)
		return s
	}
	ss.turn++
	s := ss.all[ss.turn%len(ss.all)]
	s.users++
	return s
}

// give takes a session back.
func (ss *sessions) give(s *session) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s.users--; s.users == 0 {
		ss.free = append(ss.free, s)
	}
}

// end removes all directories.
func (ss *sessions) end() error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	var err error
	for _, s := range ss.all {
		err = errors.Join(err, s.end())
	}
	return err
}

// session is one directory of files on their way. The lock on it, which the kernel
// drops with the process, tells a living session from one that may be swept.
type session struct {
	users int // guarded by the mu of sessions: puts that use it

	fs fileSystem

	mu   sync.Mutex
	dir  string    // guarded by mu: empty until the first file
	lock directory // guarded by mu: nil until the first file
	next uint64    // guarded by mu: name of the next file
}

// create makes a new file in the session's directory.
func (s *session) create() (string, writeFile, error) {
	for again := false; ; again = true {
		name, err := s.name()
		if err != nil {
			return "", nil, err
		}
		f, err := s.fs.Create(name)
		if !errors.Is(err, fs.ErrNotExist) || again {
			return name, f, err
		}
		if err := s.lost(); err != nil { // somebody removed the directory
			return "", nil, err
		}
	}
}

func (s *session) name() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		if err := s.begin(); err != nil {
			return "", err
		}
	}
	s.next++
	return s.dir + "/" + strconv.FormatUint(s.next, 36), nil
}

// begin makes and locks the directory. The caller holds mu. A sweep of another
// process may take a new directory for an abandoned one before it is locked, so
// it is looked for again afterwards.
func (s *session) begin() error {
	const tries = 16
	for range tries {
		if err := s.fs.Mkdir(tmpDir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		dir := tmpDir + "/" + rand.Text()
		if err := s.fs.Mkdir(dir); err != nil {
			return err
		}
		lock, err := s.fs.OpenDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		free, err := lock.TryLock()
		if err == nil && free {
			_, err = s.fs.Stat(dir)
			if err == nil {
				s.dir, s.lock = dir, lock
				return nil
			}
		}
		if err := errors.Join(ignoreAbsent(err), lock.Close()); err != nil {
			return err
		}
	}
	return core.Errorf("objects: begin session", core.CodeBusy, "%d new directories below %s were removed at once", tries, tmpDir)
}

// lost forgets a directory that is gone.
func (s *session) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	err := s.lock.Close()
	s.lock = nil
	return err
}

// end removes the directory with whatever could not be removed before.
func (s *session) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	_, err := removeSession(s.fs, s.dir)
	err = errors.Join(err, s.lock.Close())
	s.lock = nil
	return err
}

// sweep removes the sessions of processes that are gone and returns how many
// files it found in them.
func sweep(fsys fileSystem) (removed int, err error) {
	entries, err := fsys.ReadDir(tmpDir)
	if err != nil {
		return 0, ignoreAbsent(err)
	}
	for _, e := range entries {
		n, err := sweepSession(fsys, tmpDir+"/"+e.Name())
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

func sweepSession(fsys fileSystem, dir string) (removed int, err error) {
	lock, err := fsys.OpenDir(dir)
	if err != nil {
		return 0, ignoreAbsent(err)
	}
	free, err := lock.TryLock()
	if err == nil && free {
		removed, err = removeSession(fsys, dir)
	}
	return removed, errors.Join(err, lock.Close())
}

func removeSession(fsys fileSystem, dir string) (removed int, err error) {
	files, err := fsys.ReadDir(dir)
	if err != nil {
		return 0, ignoreAbsent(err)
	}
	for _, f := range files {
		if err := ignoreAbsent(fsys.Remove(dir + "/" + f.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, ignoreAbsent(fsys.Remove(dir))
}

// ignoreAbsent drops an error that says that something is not there.
func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
