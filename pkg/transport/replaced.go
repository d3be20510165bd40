package transport

import "errors"

// errReplaced marks what an [EpochGuard] refuses.
var errReplaced = errors.New("it has been replaced")

// IsReplaced reports whether err is the refusal of a coordinator that is older than
// one seen before. It says nothing about the caller's own epoch; its successor is to
// be waited for.
func IsReplaced(err error) bool { return errors.Is(err, errReplaced) }
