package cli

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// transcript is what a program has written to its stderr so far.
type transcript struct {
	t *testing.T

	mu   sync.Mutex // guards the fields below
	text bytes.Buffer
	more chan struct{} // closed when there is more
}

func newTranscript(t *testing.T) *transcript { return &transcript{t: t, more: make(chan struct{})} }

// Write takes a part of it.
func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.more)
	w.more = make(chan struct{})
	return w.text.Write(p)
}

func (w *transcript) stderr() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// awaitLog waits until it holds a text.
func (w *transcript) awaitLog(text string) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		more, found := w.more, strings.Contains(w.text.String(), text)
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-deadline:
			w.t.Fatalf("it never says %q:\n%s", text, w.stderr())
		}
	}
}
