package cloudlocal

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	noticePoll  = time.Second            // how often the file is looked for, whatever the system reports
	noticeGrace = 500 * time.Millisecond // how long an empty file may wait for its content
	maxNotice   = 4 << 10                // bytes of a notice that are read
)

// Preemption implements [core.ComputeHint]. The notice file is watched through the
// system's file events and looked for once a second besides, because network disks
// report nothing and its directory may not be there yet.
func (m *Machine) Preemption(ctx context.Context) (core.Preemption, error) {
	const op = "machine: preemption"
	if m.cfg.NoticeFile == "" {
		<-ctx.Done()
		return core.Preemption{}, core.Wrap(op, core.CodeCanceled, ctx.Err())
	}
	events, stop := watchDir(filepath.Dir(m.cfg.NoticeFile))
	defer stop()
	tick := time.NewTicker(noticePoll)
	defer tick.Stop()
	var emptySince time.Time
	for {
		p, found, err := m.notice()
		switch {
		case err != nil:
			return core.Preemption{}, fsError(op, err)
		case found && p.Reason == "" && p.At.IsZero() && emptySince.IsZero():
			emptySince = time.Now() // it may have been made before it is written
		case found && (p.Reason != "" || !p.At.IsZero() || time.Since(emptySince) >= noticeGrace):
			return p, nil
		case !found:
			emptySince = time.Time{}
		}
		select {
		case <-ctx.Done():
			return core.Preemption{}, core.Wrap(op, core.CodeCanceled, ctx.Err())
		case <-events:
		case <-tick.C:
		}
	}
}

// notice reads the notice file, if it is there.
func (m *Machine) notice() (p core.Preemption, found bool, err error) {
	f, err := os.Open(m.cfg.NoticeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	info, err := f.Stat()
	if err != nil {
		return p, false, errors.Join(err, f.Close())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxNotice))
	if err := errors.Join(err, f.Close()); err != nil {
		return p, false, err
	}
	p = ParseNotice(string(b), info.ModTime())
	p.Source = m.cfg.NoticeFile
	return p, true, nil
}

// watchDir reports that something happened in a directory. Where the system cannot
// tell, the channel never yields: the caller looks for itself.
func watchDir(dir string) (events <-chan fsnotify.Event, stop func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, func() {}
	}
	if err := w.Add(dir); err != nil {
		_ = w.Close() // nothing was watched
		return nil, func() {}
	}
	return w.Events, func() {
		_ = w.Close() // it only gives descriptors back
	}
}

// ParseNotice reads the content of a notice file that was written at the given
// time. It is one of
//
//	120s                                        lead time, from when the file was written
//	2026-01-02T15:04:05Z                        the time itself
//	2m host maintenance                         either, and a reason
//	{"action": "terminate", "time": "2026-01-02T15:04:05Z"}
//	{"lead": "120s", "reason": "host maintenance"}
//
// Anything else is the reason, and the time is unknown; so is that of an empty file.
func ParseNotice(text string, written time.Time) core.Preemption {
	text = strings.TrimSpace(strings.ToValidUTF8(text, ""))
	var doc struct {
		Action string `json:"action"`
		Reason string `json:"reason"`
		Time   string `json:"time"`
		Lead   string `json:"lead"`
	}
	if strings.HasPrefix(text, "{") && json.Unmarshal([]byte(text), &doc) == nil {
		p := core.Preemption{Reason: doc.Reason}
		if p.Reason == "" {
			p.Reason = doc.Action
		}
		if at, ok := noticeTime(doc.Time, written); ok {
			p.At = at
		} else if at, ok := noticeTime(doc.Lead, written); ok {
			p.At = at
		}
		return p
	}
	first, rest, _ := strings.Cut(text, " ")
	if line, more, ok := strings.Cut(first, "\n"); ok {
		first, rest = line, more+" "+rest
	}
	if at, ok := noticeTime(first, written); ok {
		return core.Preemption{At: at, Reason: strings.TrimSpace(rest)}
	}
	return core.Preemption{Reason: text}
}

// noticeTime reads a duration or a point in time.
func noticeTime(s string, written time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil {
		return written.Add(max(d, 0)), true
	}
	at, err := time.Parse(time.RFC3339, s)
	return at, err == nil
}
