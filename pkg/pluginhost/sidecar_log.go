package pluginhost

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Limits of what a sidecar writes.
const (
	maxLogLine  = 8 << 10 // bytes of one line; the rest of it is dropped
	tailLines   = 50      // lines kept for errors
	maxTailLine = 512     // bytes kept of each
)

// tail keeps the last lines of a sidecar's stderr.
type tail struct {
	mu    sync.Mutex // guards lines and next
	lines []string   // a ring
	next  int
}

func newTail() *tail { return &tail{lines: make([]string, 0, tailLines)} }

func (t *tail) add(line string) {
	if len(line) > maxTailLine {
		line = line[:maxTailLine] + "..."
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) < tailLines {
		t.lines = append(t.lines, line)
		return
	}
	t.lines[t.next] = line
	t.next = (t.next + 1) % tailLines
}

// String returns the lines in order, without a newline at the end.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(append(append([]string(nil), t.lines[t.next:]...), t.lines[:t.next]...), "\n")
}

// copyLines emits each line of r until its end and keeps it in keep, if given.
func copyLines(r io.Reader, keep *tail, emit func(core.EventLevel, string)) {
	br := bufio.NewReaderSize(r, maxLogLine)
	for {
		b, err := br.ReadSlice('\n')
		cut := err == bufio.ErrBufferFull
		if line := strings.ToValidUTF8(strings.TrimRight(string(b), "\r\n"), "\uFFFD"); line != "" {
			if cut {
				line += "... (cut)"
			}
			if keep != nil {
				keep.add(line)
			}
			emit(levelOf(line), line)
		}
		for err == bufio.ErrBufferFull {
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// levelOf finds the level that a plugin gave a line: the fields level or @level
// of a JSON object, or a leading word as most logging libraries write it.
func levelOf(line string) core.EventLevel {
	word, _, _ := strings.Cut(line, " ")
	if strings.HasPrefix(line, "{") {
		var f struct {
			Level  string `json:"level"`
			Hclog  string `json:"@level"`
			Python string `json:"levelname"`
		}
		if json.Unmarshal([]byte(line), &f) == nil {
			word = f.Level + f.Hclog + f.Python
		}
	}
	word, _, _ = strings.Cut(word, ":")
	switch strings.ToLower(strings.Trim(word, "[]")) {
	case "trace", "debug":
		return core.LevelDebug
	case "warn", "warning":
		return core.LevelWarn
	case "error", "critical", "fatal", "panic":
		return core.LevelError
	}
	return core.LevelInfo
}
