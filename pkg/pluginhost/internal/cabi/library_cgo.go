//go:build cgo && linux

package cabi

/*
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"strings"
	"unsafe"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Library is an open shared library with a checked table of functions. Its
// methods call C on the calling goroutine and return when C does. Unless the
// library is thread-safe, its user makes one call at a time.
type Library struct {
	vtable  unsafe.Pointer // plugin's, valid for ever
	abi     int
	name    string
	version string
	safe    bool
	has     entries
}

// entries tells which optional functions a table holds.
type entries struct {
	init, preflight, batch, shutdown bool
}

// messageMax bounds what is kept of a plugin's or the loader's message.
const messageMax = 4096

// Open copies the library, opens the copy and checks its table. A file that does
// not match its pin runs no code and is [core.CodePermissionDenied]; what is not a
// library or breaks the interface is [core.CodePluginContract].
func Open(o Options) (*Library, error) {
	file, err := stage(o)
	if err != nil {
		return nil, err
	}
	lib, opened, err := open(file.path, o)
	file.release(opened)
	return lib, err
}

// open opens the staged copy. The second result tells whether the loader has
// taken it, so that its name must stay its own.
func open(path string, o Options) (*Library, bool, error) {
	cpath, csymbol := C.CString(path), C.CString(o.Symbol)
	message := (*C.char)(C.calloc(1, messageMax))
	defer C.free(unsafe.Pointer(cpath))
	defer C.free(unsafe.Pointer(csymbol))
	defer C.free(unsafe.Pointer(message))

	var table C.struct_cabi_table
	switch stage := C.cabi_open(cpath, csymbol, &table, message, messageMax); stage {
	case C.CABI_OPENED:
	case C.CABI_NO_LIBRARY:
		reason := strings.ReplaceAll(C.GoString(message), path, o.Path)
		return nil, false, core.Errorf(op, core.CodePluginContract, "%s cannot be opened: %s", o.Path, reason)
	case C.CABI_NO_SYMBOL:
		return nil, true, core.Errorf(op, core.CodePluginContract,
			"%s has no symbol %s; export it, or name the right one as entry.so.symbol", o.Path, o.Symbol)
	case C.CABI_NO_TABLE:
		return nil, true, core.Errorf(op, core.CodePluginContract, "%s in %s returned no table of functions", o.Symbol, o.Path)
	case C.CABI_WRONG_VERSION:
		return nil, true, core.Errorf(op, core.CodePluginContract,
			"%s: ABI mismatch: got %d, expected 1 or 2", o.Path, uint32(table.abi_version))
	default:
		return nil, true, core.Errorf(op, core.CodePluginContract, "%s: table of functions: %s", o.Path, C.GoString(message))
	}
	return &Library{
		vtable:  unsafe.Pointer(table.vtable),
		abi:     int(table.abi_version),
		name:    strings.ToValidUTF8(C.GoString(table.name), "?"),
		version: strings.ToValidUTF8(C.GoString(table.version), "?"),
		safe:    table.flags&C.ROLLOUT_PLUGIN_THREAD_SAFE != 0,
		has: entries{
			init: table.has_init != 0, preflight: table.has_preflight != 0,
			batch: table.has_batch != 0, shutdown: table.has_shutdown != 0,
		},
	}, true, nil
}

// ABI returns the interface version of the library, 1 or 2.
func (l *Library) ABI() int { return l.abi }

// Name returns the name in the table.
func (l *Library) Name() string { return l.name }

// Version returns the version in the table, or the empty string.
func (l *Library) Version() string { return l.version }

// ThreadSafe tells whether calls may run at once.
func (l *Library) ThreadSafe() bool { return l.safe }

// HasBatch tells whether [Library.CallBatch] can be used.
func (l *Library) HasBatch() bool { return l.has.batch }

// Init gives the library its configuration, a JSON object.
func (l *Library) Init(config []byte) error {
	if !l.has.init {
		return nil
	}
	a := C.cabi_init(l.vtable, bytesPtr(config), C.size_t(len(config)))
	_, err := l.take(a.rc, &a.res)
	return err
}

// Preflight asks the library whether it can work.
func (l *Library) Preflight() error {
	if !l.has.preflight {
		return nil
	}
	a := C.cabi_preflight(l.vtable)
	_, err := l.take(a.rc, &a.res)
	return err
}

// Call runs one method. C reads method and payload in place until it returns.
func (l *Library) Call(method string, payload []byte) ([]byte, error) {
	m := (*C.uint8_t)(unsafe.Pointer(unsafe.StringData(method)))
	var a C.struct_cabi_answer
	if l.abi == 1 {
		a = C.cabi_call_v1(l.vtable, m, C.size_t(len(method)), bytesPtr(payload), C.size_t(len(payload)))
	} else {
		a = C.cabi_call_v2(l.vtable, m, C.size_t(len(method)), bytesPtr(payload), C.size_t(len(payload)))
	}
	return l.take(a.rc, &a.res)
}

// Shutdown tells the library that no call follows.
func (l *Library) Shutdown() {
	if l.has.shutdown {
		C.cabi_shutdown(l.vtable)
	}
}

// take copies what a function left and gives it back to the plugin, also after
// a failure and when there is nothing to copy.
func (l *Library) take(rc C.int32_t, res *C.struct_rollout_result) ([]byte, error) {
	out, err := read(rc != 0, int32(rc), res)
	if res.buf.ptr != nil {
		if l.abi == 1 {
			C.cabi_free_v1(l.vtable, res.buf.ptr, res.buf.len, res.buf.cap)
		} else {
			C.cabi_free_v2(l.vtable, res.buf.ptr, res.buf.len, res.buf.cap)
		}
	}
	return out, err
}

// read turns what a function left into a result or an error, without freeing it.
func read(failed bool, rc int32, res *C.struct_rollout_result) ([]byte, error) {
	size, capacity := uint64(res.buf.len), uint64(res.buf.cap)
	switch {
	case size > 0 && res.buf.ptr == nil:
		return nil, core.Errorf(op, core.CodePluginContract, "the result is NULL with a length of %d", size)
	case size > capacity:
		return nil, core.Errorf(op, core.CodePluginContract, "the result's length %d exceeds its capacity %d", size, capacity)
	case failed:
		text := unsafe.Slice((*byte)(unsafe.Pointer(res.buf.ptr)), min(size, messageMax))
		return nil, failure(rc, uint32(res.code), retry{
			kind: uint32(res.retry), ms: uint64(res.retry_ms), max: uint64(res.retry_max_ms),
		}, string(text))
	case size > core.MaxCallPayload:
		return nil, core.Errorf(op, core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", size, core.MaxCallPayload)
	case size == 0:
		return nil, nil
	}
	out := make([]byte, size)
	copy(out, unsafe.Slice((*byte)(unsafe.Pointer(res.buf.ptr)), size))
	return out, nil
}

// bytesPtr returns b's start as C sees it. The type holds no pointers, so that cgo
// need not search the memory around b for any.
func bytesPtr(b []byte) *C.uint8_t {
	return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b)))
}

// PlainFaults makes a fault in this process end it by the fault's signal, without
// Go's trace of every goroutine. It is for a process that only serves a library.
func PlainFaults() { C.cabi_plain_faults() }
