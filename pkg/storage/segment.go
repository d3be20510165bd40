package storage

import "github.com/rollout-substrate/rollout/pkg/core"

// uintTag is the first byte of an encoded number of no bytes. It and what follows
// stay clear of the two byte values that the key encoding has to escape.
const uintTag = 0x10

// UintSegment returns a path segment for n such that segments order as their
// numbers do. It is short, one byte and the number's own bytes without leading
// zeroes, because short keys are what makes commits fast.
func UintSegment(n uint64) string {
	var b [9]byte
	at := len(b)
	for ; n > 0; n >>= 8 {
		at--
		b[at] = byte(n)
	}
	at--
	b[at] = uintTag + byte(len(b)-1-at)
	return string(b[at:])
}

// ParseUintSegment is the reverse of [UintSegment]. Anything else is
// [core.CodeSchemaViolation].
func ParseUintSegment(s string) (uint64, error) {
	n := uint64(0)
	for i := 1; i < len(s); i++ {
		n = n<<8 | uint64(s[i])
	}
	if len(s) == 0 || len(s) > 9 || s[0] != uintTag+byte(len(s)-1) || len(s) > 1 && s[1] == 0 {
		return 0, core.Errorf("storage key", core.CodeSchemaViolation, "segment %q is no encoded number", s)
	}
	return n, nil
}
