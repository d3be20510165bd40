package cli

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// idBytes is how much of a hash stands for a line without an id.
const idBytes = 8

// spareBytes is the room for white space around a line of the greatest size.
const spareBytes = 4 << 10

// byteOrderMark is what some editors put in front of a file in UTF-8.
const byteOrderMark = "\xef\xbb\xbf"

// lineReader turns the lines of a JSONL file into items. It holds one line in memory,
// and 16 bytes for each id that it has seen.
type lineReader struct {
	name   string
	r      *bufio.Reader
	keep   bool // a bad line becomes an error line
	line   int64
	seen   map[[16]byte]int64 // id -> line that had it first
	times  map[[16]byte]int   // content -> how often it came
	failed error              // the bad line that ended the reading
}

func newLineReader(name string, r io.Reader, keep bool) *lineReader {
	if name == "-" {
		name = "standard input"
	}
	return &lineReader{name: name, r: bufio.NewReaderSize(r, 256<<10), keep: keep, seen: map[[16]byte]int64{}, times: map[[16]byte]int{}}
}

// next returns the next line, io.EOF at the end. Blank lines are passed over.
func (l *lineReader) next() (core.JobItem, error) {
	for {
		line, tooLong, err := l.readLine()
		if err != nil && !errors.Is(err, io.EOF) {
			l.failed = core.Errorf("submit", core.CodeInternal, "%s:%d: %w", l.name, l.line, err)
			return core.JobItem{}, l.failed
		}
		if len(line) == 0 && !tooLong {
			if err != nil {
				return core.JobItem{}, io.EOF
			}
			continue
		}
		return l.item(line, tooLong)
	}
}

// readLine returns the next line without the white space around it. Of one that is
// longer than a plugin may be given only the beginning is kept.
func (l *lineReader) readLine() (line []byte, tooLong bool, err error) {
	l.line++
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) <= core.MaxCallPayload+spareBytes {
			line = append(line, part...)
		} else {
			tooLong = true
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if l.line == 1 {
			line = bytes.TrimPrefix(line, []byte(byteOrderMark))
		}
		line = bytes.TrimSpace(line)
		return line, tooLong || len(line) > core.MaxCallPayload, err
	}
}

// item makes an item of a line.
func (l *lineReader) item(line []byte, tooLong bool) (core.JobItem, error) {
	sum := core.SumContent(line)
	hash := [16]byte(sum[:16])
	if tooLong {
		return l.bad(l.madeID(hash), core.CodeTooLarge, "the line is longer than the %d bytes that a plugin may be given", core.MaxCallPayload)
	}
	if line[0] != '{' {
		return l.bad(l.madeID(hash), core.CodeInvalidArgument, "the line is not a JSON object")
	}
	// A struct would also take "ID" and "Custom_Id".
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return l.bad(l.madeID(hash), core.CodeInvalidArgument, "the line is not a JSON object: %v", err)
	}
	id, err := lineID(fields)
	if err != nil {
		return l.bad(l.madeID(hash), core.CodeInvalidArgument, "%v", err)
	}
	if id == "" {
		id = l.madeID(hash)
	}
	idSum := core.SumContent([]byte(id))
	key := [16]byte(idSum[:16])
	if first, dup := l.seen[key]; dup {
		return l.bad(id, core.CodeAlreadyExists, "the id %q stands in line %d already", id, first)
	}
	l.seen[key] = l.line
	return core.JobItem{ID: id, Payload: line}, nil
}

// lineID reads an id: the first of two fields that holds a text, which is not empty,
// or a number.
func lineID(fields map[string]json.RawMessage) (string, error) {
	for _, name := range []string{"custom_id", "id"} {
		raw := fields[name]
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		var s string
		if err := json.Unmarshal(raw, &s); err == nil {
			if s == "" {
				continue
			}
			return s, nil
		}
		var n json.Number
		if err := json.Unmarshal(raw, &n); err == nil {
			return n.String(), nil
		}
		return "", fmt.Errorf("the field %s is neither text nor a number", name)
	}
	return "", nil
}

// madeID names a line by its content and how often that came so far.
func (l *lineReader) madeID(hash [16]byte) string {
	l.times[hash]++
	return fmt.Sprintf("%s-%d", hex.EncodeToString(hash[:idBytes]), l.times[hash])
}

// bad answers a bad line: as an error item, or as the end of the reading.
func (l *lineReader) bad(id string, code core.Code, format string, args ...any) (core.JobItem, error) {
	msg := fmt.Sprintf("%s:%d: ", l.name, l.line) + fmt.Sprintf(format, args...)
	if l.keep {
		return core.JobItem{ID: id, Err: &core.ItemError{Code: code, Message: msg}}, nil
	}
	l.failed = core.Errorf("submit", core.CodeInternal, "%s; the submit ends here and nothing of it goes on; --on-bad-line error makes such lines error results instead", msg)
	return core.JobItem{}, l.failed
}
