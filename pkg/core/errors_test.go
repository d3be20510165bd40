package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestErrorChain(t *testing.T) {
	cause := core.Errorf("read page", core.CodeCorrupt, "page 7: %w", io.ErrUnexpectedEOF)
	err := core.WithOp("storage: get", cause)
	if got, want := err.Error(), "storage: get: read page: page 7: unexpected EOF"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause must stay reachable")
	}
	if core.CodeOf(fmt.Errorf("outside: %w", err)) != core.CodeCorrupt {
		t.Error("WithOp must keep the code")
	}
	if !errors.Is(err, &core.Error{Code: core.CodeCorrupt}) || errors.Is(err, &core.Error{Code: core.CodeFenced}) {
		t.Error("errors.Is must match by code")
	}
	if got := (&core.Error{Op: "x", Code: core.CodeClosed}).Error(); got != "x: closed" {
		t.Errorf("an error without a cause reads %q", got)
	}
}

func TestCodeOfForeignErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want core.Code
	}{
		{nil, core.CodeUnknown},
		{io.EOF, core.CodeUnknown},
		{context.Canceled, core.CodeCanceled},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), core.CodeDeadlineExceeded},
		{core.Wrap("op", core.CodeInternal, context.Canceled), core.CodeCanceled},
		{core.Wrap("op", core.CodeInternal, io.EOF), core.CodeInternal},
	} {
		if got := core.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %s, want %s", c.err, got, c.want)
		}
	}
	if core.Wrap("op", core.CodeInternal, nil) != nil || core.WithOp("op", nil) != nil {
		t.Error("no error must stay no error")
	}
	if core.IsCode(nil, core.CodeUnknown) {
		t.Error("IsCode of nil must be false")
	}
}

func TestViolations(t *testing.T) {
	var none core.Violations
	if none.Err("check") != nil {
		t.Error("no violation must be no error")
	}
	vs := core.Violations{
		{File: "a.toml", Line: 3, Key: "log.level", Msg: "is odd"},
		{File: "a.toml", Msg: "cannot be read"},
		{Key: "--addr", Msg: "is empty"},
	}
	err := vs.Err("check")
	if twice := core.WithOp("check", err); twice.Error() != err.Error() {
		t.Errorf("an operation that both sides name reads %q", twice)
	}
	want := "check: a.toml:3: log.level: is odd\na.toml: cannot be read\n--addr: is empty"
	if err.Error() != want || core.CodeOf(err) != core.CodeConfigInvalid {
		t.Errorf("got %s %q, want %q", core.CodeOf(err), err, want)
	}
	var back core.Violations
	if !errors.As(err, &back) || len(back) != 3 {
		t.Error("the violations must be reachable")
	}
}
