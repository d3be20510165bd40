package cloudlocal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// objectMeta is what the store knows of an object beside its bytes. On disk it is
// one JSON object:
//
//	{"size":4096,"content_type":"text/plain","created_at_ms":1767225600000,"check":"0a1b2c3d"}
//
// check is a CRC-32C over the object's id and the other three values, so that a
// flipped bit, or the meta of another object, is noticed. Metas without it are
// those of the Rust original; they are believed.
type objectMeta struct {
	size        int64  // bytes of the object
	contentType string // printable ASCII, at most maxContentType bytes
	createdMS   int64  // of the first put, Unix milliseconds
	checked     bool   // read with a valid check
}

const (
	maxContentType = 255
	// maxMeta bounds what is read of a meta: every content type fits escaped.
	maxMeta = 2048
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (m objectMeta) check(id core.ContentID) string {
	b := make([]byte, 0, core.ContentIDSize+16+maxContentType)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.size))
	b = binary.BigEndian.AppendUint64(b, uint64(m.createdMS))
	b = append(b, m.contentType...)
	const digits = "0123456789abcdef"
	sum := crc32.Checksum(b, castagnoli)
	out := make([]byte, 8)
	for i := range out {
		out[i] = digits[sum>>(28-4*i)&15]
	}
	return string(out)
}

// encode returns the meta as it stands on disk.
func (m objectMeta) encode(id core.ContentID) []byte {
	b := append(make([]byte, 0, 128+2*len(m.contentType)), `{"size":`...)
	b = strconv.AppendInt(b, m.size, 10)
	b = append(b, `,"content_type":"`...)
	for i := 0; i < len(m.contentType); i++ {
		if c := m.contentType[i]; c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, m.contentType[i])
	}
	b = append(b, `","created_at_ms":`...)
	b = strconv.AppendInt(b, m.createdMS, 10)
	b = append(b, `,"check":"`...)
	b = append(b, m.check(id)...)
	return append(b, `"}`...)
}

// decodeMeta reads a meta. Every text that encode cannot have written for this id
// and that a store without checks cannot have written either is an error.
func decodeMeta(id core.ContentID, b []byte) (objectMeta, error) {
	if m, sum, ok := scanMeta(b); ok {
		return m.verified(id, &sum)
	}
	var raw struct {
		Size        *int64  `json:"size"`
		ContentType *string `json:"content_type"`
		CreatedMS   *int64  `json:"created_at_ms"`
		Check       *string `json:"check"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&raw); err != nil {
		return objectMeta{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return objectMeta{}, errors.New("text follows the JSON object")
	}
	if raw.Size == nil || raw.CreatedMS == nil {
		return objectMeta{}, errors.New("size or created_at_ms is missing")
	}
	m := objectMeta{size: *raw.Size, createdMS: *raw.CreatedMS}
	if raw.ContentType != nil {
		m.contentType = *raw.ContentType
	}
	return m.verified(id, raw.Check)
}

func (m objectMeta) verified(id core.ContentID, sum *string) (objectMeta, error) {
	if m.size < 0 {
		return objectMeta{}, fmt.Errorf("a size of %d", m.size)
	}
	if err := checkContentType(m.contentType); err != nil {
		return objectMeta{}, err
	}
	if sum != nil {
		if want := m.check(id); *sum != want {
			return objectMeta{}, fmt.Errorf("its checksum is %.16q, not %q", *sum, want)
		}
		m.checked = true
	}
	return m, nil
}

// scanMeta reads the one form that encode writes, when no character of the
// content type is escaped. It is what nearly every meta looks like, and ten times
// faster than reading any JSON.
func scanMeta(b []byte) (m objectMeta, sum string, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(`{"size":`)); !ok {
		return m, "", false
	}
	if m.size, b, ok = scanInt(b, `,"content_type":"`); !ok {
		return m, "", false
	}
	end := bytes.IndexByte(b, '"')
	if end < 0 || bytes.IndexByte(b[:end], '\\') >= 0 {
		return m, "", false
	}
	m.contentType = string(b[:end])
	if b, ok = bytes.CutPrefix(b[end:], []byte(`","created_at_ms":`)); !ok {
		return m, "", false
	}
	if m.createdMS, b, ok = scanInt(b, `,"check":"`); !ok || len(b) != 10 || string(b[8:]) != `"}` {
		return m, "", false
	}
	return m, string(b[:8]), true
}

// scanInt reads decimal digits up to the text that must follow them.
func scanInt(b []byte, then string) (int64, []byte, bool) {
	digits, rest, ok := bytes.Cut(b, []byte(then))
	if !ok {
		return 0, nil, false
	}
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return n, rest, err == nil
}

func checkContentType(s string) error {
	if len(s) > maxContentType {
		return fmt.Errorf("a content type of %d bytes, at most %d are accepted", len(s), maxContentType)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return fmt.Errorf("byte %d of the content type is not printable ASCII", i)
		}
	}
	return nil
}
