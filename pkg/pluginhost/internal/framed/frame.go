package framed

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The handshake's constants.
const (
	Magic   = "rollout-plugin"
	Version = 1
)

// Sizes in bytes.
const (
	// MaxFrame bounds what follows the length: a payload and 4 KiB around it.
	MaxFrame = core.MaxCallPayload + 4<<10

	headerLen = 4 + 1 + 8 // length, type, id
	minFrame  = 1 + 8     // type, id
)

// Type says what a frame is.
type Type uint8

// The types.
const (
	TypeHello    Type = 1
	TypeCall     Type = 2
	TypeBatch    Type = 3
	TypeResult   Type = 4
	TypeError    Type = 5
	TypeCancel   Type = 6
	TypeShutdown Type = 7
)

// String returns the type's name, as the package comment lists them.
func (t Type) String() string {
	names := [...]string{"", "hello", "call", "batch", "result", "error", "cancel", "shutdown"}
	if t == 0 || int(t) >= len(names) {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return names[t]
}

// ErrFrame is wrapped by every error about bytes that break the format.
var ErrFrame = errors.New("broken frame")

// Frame is one frame as read. Body belongs to the reader of the frame.
type Frame struct {
	Type Type
	ID   uint64
	Body []byte
}

// Reader reads frames. It belongs to one goroutine.
type Reader struct{ br *bufio.Reader }

// NewReader returns a reader that takes up to 64 KiB from r at once.
func NewReader(r io.Reader) *Reader { return &Reader{br: bufio.NewReaderSize(r, 64<<10)} }

// Buffered reports whether a further frame's length lies in the buffer already.
func (r *Reader) Buffered() bool { return r.br.Buffered() >= headerLen }

// Next returns the next frame with a body of its own. It returns [io.EOF] only
// at a frame's border; an end within a frame is [io.ErrUnexpectedEOF]. A length
// or type outside the format wraps [ErrFrame] and ends the stream's usefulness.
// A length is believed only as far as bytes follow it: memory grows with what
// has arrived.
func (r *Reader) Next() (Frame, error) {
	head, err := r.br.Peek(headerLen)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			return Frame{}, r.shortHead(head)
		}
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head)
	f := Frame{Type: Type(head[4]), ID: binary.BigEndian.Uint64(head[5:])}
	if n < minFrame || n > MaxFrame {
		return Frame{}, fmt.Errorf("%w: length %d is outside %d..%d", ErrFrame, n, minFrame, MaxFrame)
	}
	if f.Type < TypeHello || f.Type > TypeShutdown {
		return Frame{}, fmt.Errorf("%w: unknown %v", ErrFrame, f.Type)
	}
	if _, err := r.br.Discard(headerLen); err != nil {
		return Frame{}, err
	}
	f.Body, err = r.body(int(n) - minFrame)
	return f, err
}

// shortHead tells an early end from a first few bytes that are no frame at all.
func (r *Reader) shortHead(head []byte) error {
	if len(head) >= 4 {
		if n := binary.BigEndian.Uint32(head); n < minFrame || n > MaxFrame {
			return fmt.Errorf("%w: length %d is outside %d..%d", ErrFrame, n, minFrame, MaxFrame)
		}
	}
	return io.ErrUnexpectedEOF
}

// bodyStep is how much memory a length alone may claim.
const bodyStep = 1 << 20

func (r *Reader) body(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b := make([]byte, min(n, bodyStep))
	read := 0
	for {
		k, err := io.ReadFull(r.br, b[read:])
		read += k
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if read == n {
			return b, nil
		}
		b = append(b, make([]byte, min(n-read, len(b)))...)
	}
}

// appendHeader appends a frame's header for a body of n bytes.
func appendHeader(dst []byte, t Type, id uint64, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(minFrame+n))
	dst = append(dst, byte(t))
	return binary.BigEndian.AppendUint64(dst, id)
}

// Append appends a frame with that body.
func Append(dst []byte, t Type, id uint64, body []byte) []byte {
	return append(appendHeader(dst, t, id, len(body)), body...)
}

// CallFits reports whether a call of that method and payload fits in a frame.
func CallFits(method string, payload []byte) bool {
	return len(method) <= core.MaxMethodLen && len(payload) <= core.MaxCallPayload
}

// AppendCall appends a call frame. The caller has checked [CallFits].
func AppendCall(dst []byte, id uint64, millis uint32, method string, payload []byte) []byte {
	dst = appendHeader(dst, TypeCall, id, 4+2+len(method)+len(payload))
	dst = appendMethod(dst, millis, method)
	return append(dst, payload...)
}

func appendMethod(dst []byte, millis uint32, method string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, millis)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(method)))
	return append(dst, method...)
}

// BatchLen returns how many of the payloads, from the first, fit in one frame.
func BatchLen(method string, payloads [][]byte) int {
	room := MaxFrame - minFrame - 4 - 2 - len(method) - 4
	for i, p := range payloads {
		room -= 4 + len(p)
		if room < 0 || i == core.MaxBatchLen {
			return i
		}
	}
	return len(payloads)
}

// AppendBatch appends a batch frame. The caller has cut payloads to [BatchLen].
func AppendBatch(dst []byte, id uint64, millis uint32, method string, payloads [][]byte) []byte {
	n := 4 + 2 + len(method) + 4
	for _, p := range payloads {
		n += 4 + len(p)
	}
	dst = appendHeader(dst, TypeBatch, id, n)
	dst = appendMethod(dst, millis, method)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payloads)))
	for _, p := range payloads {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(p)))
		dst = append(dst, p...)
	}
	return dst
}
