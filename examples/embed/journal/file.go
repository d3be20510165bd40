package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// file holds commits, one a line: the CRC-32 of the rest in hexadecimal, a space, and
// JSON. It belongs to whoever holds the store's mutex.
type file struct {
	f      *os.File
	size   int64 // of the whole lines
	broken error // a sync failed: what is on disk is not known
}

// line is a commit as it is written.
type line struct {
	Revision uint64     `json:"revision"`
	Changes  []lineItem `json:"changes"`
}

// lineItem is one change. Segments and values are any bytes, so JSON gets them in
// base64. A nil value removes the row.
type lineItem struct {
	Namespace core.Namespace `json:"ns"`
	Run       core.RunID     `json:"run,omitzero"`
	Path      [][]byte       `json:"path"`
	Value     *[]byte        `json:"value"`
}

// open opens or makes the file and calls each with every commit in it. A last line that
// is not whole was never acknowledged and is cut off; any other damage is
// [core.CodeCorrupt].
func (f *file) open(path string, each func(core.Commit)) (err error) {
	const op = "journal: open"
	if f.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	if err = f.read(each); err == nil {
		err = errors.Join(f.f.Truncate(f.size), f.f.Sync(), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		return core.Wrap(op, core.CodeOf(err), errors.Join(err, f.f.Close()))
	}
	return nil
}

// syncDir makes the name of a new file durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *file) read(each func(core.Commit)) error {
	all, err := io.ReadAll(f.f)
	if err != nil {
		return core.Wrap("", core.CodeInternal, err)
	}
	for {
		text, rest, whole := bytes.Cut(all[f.size:], []byte("\n"))
		if !whole {
			return nil
		}
		c, err := decode(text)
		if err != nil && len(rest) == 0 {
			return nil // torn while it was written
		}
		if err != nil {
			return core.Errorf("", core.CodeCorrupt, "the line at byte %d is damaged: %w", f.size, err)
		}
		each(c)
		f.size += int64(len(text)) + 1
	}
}

func encode(c core.Commit) ([]byte, error) {
	l := line{Revision: c.Revision}
	for _, ch := range c.Changes {
		item := lineItem{Namespace: ch.Key.Namespace, Run: ch.Key.Run}
		for _, segment := range ch.Key.Path {
			item.Path = append(item.Path, []byte(segment))
		}
		if ch.Kind == core.ChangePut {
			item.Value = &ch.Value
		}
		l.Changes = append(l.Changes, item)
	}
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), nil
}

func decode(text []byte) (core.Commit, error) {
	sum, text, ok := bytes.Cut(text, []byte(" "))
	if !ok || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) {
		return core.Commit{}, errors.New("its checksum is wrong")
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return core.Commit{}, err
	}
	c := core.Commit{Revision: l.Revision}
	for _, item := range l.Changes {
		ch := core.Change{Kind: core.ChangeDelete, Key: core.NewKey(item.Namespace).InRun(item.Run)}
		for _, segment := range item.Path {
			ch.Key.Path = append(ch.Key.Path, string(segment))
		}
		if item.Value != nil {
			ch.Kind, ch.Value = core.ChangePut, append([]byte{}, *item.Value...)
		}
		c.Changes = append(c.Changes, ch)
	}
	return c, nil
}

// append writes a commit and syncs it. What could not be written is taken back; a sync
// that failed breaks the file, because nobody knows then what is on disk.
func (f *file) append(c core.Commit) error {
	const op = "journal: commit"
	if f.broken != nil {
		return core.Errorf(op, core.CodeBroken, "an earlier sync failed, open the store again: %w", f.broken)
	}
	text, err := encode(c)
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	if _, err := f.f.WriteAt(text, f.size); err != nil {
		if back := f.f.Truncate(f.size); back != nil {
			f.broken = back
			return core.Wrap(op, core.CodeBroken, errors.Join(err, back))
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return core.Wrap(op, core.CodeExhausted, err)
		}
		return core.Wrap(op, core.CodeInternal, err)
	}
	if err := f.f.Sync(); err != nil {
		f.broken = err
		return core.Wrap(op, core.CodeBroken, err)
	}
	f.size += int64(len(text))
	return nil
}

func (f *file) close() error { return f.f.Close() }
