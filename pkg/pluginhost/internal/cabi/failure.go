package cabi

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// retry is the retry advice of a struct rollout_result.
type retry struct {
	kind uint32 // enum rollout_retry
	ms   uint64 // the wait, or the first bound
	max  uint64 // the last bound
}

// The numbers of enum rollout_retry.
const (
	retryDefault = 0
	retryNow     = 1
	retryAfter   = 2
	retryBackoff = 3
)

// retryMax bounds what a plugin may ask for, so that no advice overflows.
const retryMax = 24 * time.Hour

// failure is the error of a plugin that failed by its own account: code
// [core.CodePluginError] with the plugin's message, and the advice that it gave
// or that its code implies. A method that the plugin does not have is
// [core.CodePluginContract].
func failure(rc int32, code uint32, r retry, message string) error {
	message = strings.TrimSpace(strings.ToValidUTF8(message, "?"))
	if message == "" {
		message = fmt.Sprintf("the plugin returned %d", rc)
	}
	var cause error = errors.New(message)
	if core.Code(code) == core.CodePluginContract {
		return core.Errorf("", core.CodePluginContract, "%w", cause)
	}
	hint := core.RetryHint{}
	if code <= 0xffff {
		class := core.Code(code)
		hint = class.DefaultRetry()
		if class.Valid() && class != core.CodeUnknown && class != core.CodePluginError {
			cause = &core.Error{Code: class, Err: cause}
		}
	}
	switch r.kind {
	case retryNow:
		hint = core.RetryHint{Kind: core.RetryNow}
	case retryAfter:
		hint = core.RetryHint{Kind: core.RetryAfter, After: millis(r.ms)}
	case retryBackoff:
		first := millis(r.ms)
		hint = core.RetryHint{Kind: core.RetryBackoff, Base: first, Max: max(first, millis(r.max))}
	}
	return core.Errorf("", core.CodePluginError, "%w", cause).WithRetry(hint)
}

func millis(ms uint64) time.Duration {
	if ms > uint64(retryMax/time.Millisecond) {
		return retryMax
	}
	return time.Duration(ms) * time.Millisecond
}
