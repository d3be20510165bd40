//go:build cgo && linux

package pyembed

/*
#cgo LDFLAGS: -ldl -lpthread
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"unsafe"

	"github.com/rollout-substrate/rollout/pkg/core"
)

//go:embed host.py
var hostSource string

// messageMax bounds what is kept of the loader's or Python's message at start.
const messageMax = 4096

// Interpreter is the process's Python.
type Interpreter struct{ lib Library }

// Open starts the interpreter, or returns the one that runs if it is made of the
// same library. sdkDir is the directory that holds the package rollout_plugin; the
// first Open decides. A different library is [core.CodeFailedPrecondition].
func Open(lib Library, sdkDir string) (*Interpreter, error) {
	if path := C.rp_path(); path != nil {
		if running := C.GoString(path); !sameFile(running, lib.Path) {
			return nil, core.Errorf(op, core.CodeFailedPrecondition,
				"this worker already runs %s, and a process has one Python; %s needs a worker of its own, or mode sidecar", running, lib.Path)
		}
	}
	source, err := fullSource(lib, sdkDir)
	if err != nil {
		return nil, err
	}
	path, program, text := C.CString(lib.Path), C.CString(lib.Executable), C.CString(source)
	message := (*C.char)(C.calloc(1, messageMax))
	defer C.free(unsafe.Pointer(path))
	defer C.free(unsafe.Pointer(program))
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(message))
	if C.rp_open(path, program, text, message, messageMax) != 0 {
		return nil, core.Errorf(op, core.CodeUnsupported, "%s cannot be used: %s", lib.Path, C.GoString(message))
	}
	if running := C.GoString(C.rp_path()); !sameFile(running, lib.Path) { // another Open came first
		return Open(lib, sdkDir)
	}
	return &Interpreter{lib: lib}, nil
}

// fullSource is host.py with what it expects in front. JSON strings are Python's too.
func fullSource(lib Library, sdkDir string) (string, error) {
	sdk, err1 := json.Marshal(sdkDir)
	exe, err2 := json.Marshal(lib.Executable)
	if err1 != nil || err2 != nil {
		return "", core.Errorf(op, core.CodeInternal, "paths cannot be written as JSON")
	}
	return fmt.Sprintf("sdk_dir = %s\nexecutable = %s\n%s", sdk, exe, hostSource), nil
}

func sameFile(a, b string) bool {
	ia, err1 := os.Stat(a)
	ib, err2 := os.Stat(b)
	return a == b || err1 == nil && err2 == nil && os.SameFile(ia, ib)
}

// pyThread is the thread of the shim.
type pyThread struct{ t *C.struct_rp_thread }

// newThread makes the calling thread known to Python.
func (in *Interpreter) newThread() (thread, error) {
	t := C.rp_begin()
	if t == nil {
		return nil, core.Errorf(op, core.CodeExhausted, "no memory for a thread")
	}
	return pyThread{t: t}, nil
}

func (p pyThread) run(w which, method string, payload []byte, seq uint64, more bool) outcome {
	m := (*C.char)(unsafe.Pointer(unsafe.StringData(method)))
	b := (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(payload)))
	var again C.int
	if more {
		again = 1
	}
	out := C.rp_run(p.t, C.int(w), m, C.size_t(len(method)), b, C.size_t(len(payload)), C.uint64_t(seq), again)
	return outcome{
		bytes:  unsafe.Slice((*byte)(unsafe.Pointer(out.ptr)), uint64(out.len)),
		failed: out.failed != 0,
		held:   out.held != 0,
	}
}

func (p pyThread) bind() error {
	if C.rp_bind(p.t) != 0 {
		return core.Errorf(op, core.CodePluginContract, "the plugin's object has no call")
	}
	return nil
}

func (p pyThread) release() { C.rp_release(p.t) }

func (p pyThread) drop() { C.rp_drop(p.t) }

func (p pyThread) end() { C.rp_end(p.t) }

func (p pyThread) interrupt(seq uint64) { C.rp_interrupt(p.t, C.uint64_t(seq)) }

func (p pyThread) began(seq uint64) bool { return C.rp_began(p.t, C.uint64_t(seq)) != 0 }
