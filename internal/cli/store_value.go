package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// maxValueDepth bounds how deep a shown value may be nested.
const maxValueDepth = 64

var errNotShown = errors.New("the value has no JSON form")

// base64Value is how bytes appear that are no text and no known value.
type base64Value struct {
	Base64 []byte `json:"base64"`
}

// rowValue returns the JSON form of a stored value: MessagePack where it is
// exactly one value that JSON can say, with the fields of maps in their stored
// order; then a JSON object or array as it stands, then text without control
// characters, and the bytes themselves otherwise.
func rowValue(stored []byte) json.RawMessage {
	w := valueWriter{}
	r := bytes.NewReader(stored)
	w.in = msgpack.NewDecoder(r)
	if err := w.value(0); err == nil && r.Len() == 0 {
		return w.out.Bytes()
	}
	if len(stored) > 0 && (stored[0] == '{' || stored[0] == '[') && json.Valid(stored) {
		var b bytes.Buffer
		if err := json.Compact(&b, stored); err == nil {
			return b.Bytes()
		}
	}
	if len(stored) > 0 && utf8.Valid(stored) && bytes.IndexFunc(stored, unicode.IsControl) < 0 {
		return marshal(string(stored))
	}
	return marshal(base64Value{stored})
}

// marshal is json.Marshal of a value that cannot fail, without HTML escapes.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// textOrBytes is the JSON form of a string that need not be text.
func textOrBytes(s string) any {
	if utf8.ValidString(s) {
		return s
	}
	return base64Value{[]byte(s)}
}

// valueWriter turns one MessagePack value into JSON.
type valueWriter struct {
	in  *msgpack.Decoder
	out bytes.Buffer
}

func (w *valueWriter) json(v any, err error) error {
	if err == nil {
		w.out.Write(marshal(v))
	}
	return err
}

// value copies the next value.
func (w *valueWriter) value(depth int) error {
	if depth > maxValueDepth {
		return errNotShown
	}
	code, err := w.in.PeekCode()
	if err != nil {
		return err
	}
	switch {
	case code == msgpcode.Nil:
		return w.json(nil, w.in.DecodeNil())
	case code == msgpcode.False, code == msgpcode.True:
		v, err := w.in.DecodeBool()
		return w.json(v, err)
	case code == msgpcode.Float, code == msgpcode.Double:
		return w.float()
	case code == msgpcode.Uint64:
		v, err := w.in.DecodeUint64()
		return w.json(v, err)
	case msgpcode.IsFixedNum(code), code >= msgpcode.Uint8 && code <= msgpcode.Int64:
		v, err := w.in.DecodeInt64()
		return w.json(v, err)
	case msgpcode.IsString(code):
		v, err := w.in.DecodeString()
		return w.json(textOrBytes(v), err)
	case msgpcode.IsBin(code):
		v, err := w.in.DecodeBytes()
		return w.json(base64Value{v}, err)
	case msgpcode.IsFixedArray(code), code == msgpcode.Array16, code == msgpcode.Array32:
		return w.array(depth)
	case msgpcode.IsFixedMap(code), code == msgpcode.Map16, code == msgpcode.Map32:
		return w.fields(depth)
	case msgpcode.IsExt(code):
		v, err := w.in.DecodeTime()
		return w.json(v.UTC().Format(time.RFC3339Nano), err)
	}
	return errNotShown
}

func (w *valueWriter) float() error {
	v, err := w.in.DecodeFloat64()
	if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
		return errNotShown
	}
	return w.json(v, err)
}

func (w *valueWriter) array(depth int) error {
	n, err := w.in.DecodeArrayLen()
	if err != nil {
		return err
	}
	w.out.WriteByte('[')
	for i := range n {
		if i > 0 {
			w.out.WriteByte(',')
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
	}
	w.out.WriteByte(']')
	return nil
}

func (w *valueWriter) fields(depth int) error {
	n, err := w.in.DecodeMapLen()
	if err != nil {
		return err
	}
	w.out.WriteByte('{')
	for i := range n {
		if i > 0 {
			w.out.WriteByte(',')
		}
		if err := w.name(); err != nil {
			return err
		}
		w.out.WriteByte(':')
		if err := w.value(depth + 1); err != nil {
			return err
		}
	}
	w.out.WriteByte('}')
	return nil
}

// name copies a map's key, which JSON wants to be text; numbers are spelled out.
func (w *valueWriter) name() error {
	code, err := w.in.PeekCode()
	if err != nil {
		return err
	}
	if msgpcode.IsFixedNum(code) || code >= msgpcode.Uint8 && code <= msgpcode.Int64 {
		v, err := w.in.DecodeInt64()
		return w.json(strconv.FormatInt(v, 10), err)
	}
	if !msgpcode.IsString(code) {
		return errNotShown
	}
	v, err := w.in.DecodeString()
	if err == nil && !utf8.ValidString(v) {
		return errNotShown
	}
	return w.json(v, err)
}
