package txn

import (
	"bytes"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// Bounds are the encoded keys [Lo, Hi) that a scan walks; a nil Hi is no bound.
type Bounds struct {
	Prefix []byte // encoded prefix
	Lo, Hi []byte
}

// NewBounds checks the arguments of a scan and returns where it walks.
func NewBounds(prefix core.Key, opts core.ScanOptions) (Bounds, error) {
	const op = "storage: scan"
	if err := prefix.Validate(); err != nil {
		return Bounds{}, core.WithOp(op, err)
	}
	if opts.Limit < 0 {
		return Bounds{}, core.Errorf(op, core.CodeInvalidArgument, "limit %d is negative", opts.Limit)
	}
	b := Bounds{Prefix: keycode.Append(nil, prefix)}
	b.Lo, b.Hi = b.Prefix, keycode.PrefixEnd(b.Prefix)
	if opts.After == nil {
		return b, nil
	}
	if err := opts.After.Validate(); err != nil {
		return Bounds{}, core.WithOp(op, err)
	}
	if !prefix.Covers(*opts.After) {
		return Bounds{}, core.Errorf(op, core.CodeInvalidArgument, "after key %s does not lie below prefix %s", opts.After, prefix)
	}
	after := keycode.Append(nil, *opts.After)
	if opts.Reverse {
		b.Hi = after
	} else {
		b.Lo = keycode.Next(after)
	}
	return b, nil
}

// Whole reports whether the bounds hold all rows of one run, or all without one.
func (b Bounds) Whole() bool {
	return keycode.IsGroup(b.Prefix) && bytes.Equal(b.Lo, b.Prefix) && bytes.Equal(b.Hi, keycode.PrefixEnd(b.Prefix))
}

// Read returns the part of the bounds that a scan answered for: all of it, or,
// when a limit stopped the scan, up to the last row returned.
func (b Bounds) Read(last []byte, limited, reverse bool) (lo, hi []byte) {
	switch {
	case !limited:
		return b.Lo, b.Hi
	case reverse:
		return bytes.Clone(last), b.Hi
	}
	return b.Lo, keycode.Next(last)
}
