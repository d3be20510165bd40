//go:build cgo && linux

package cabi

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"unsafe"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// batch is the C memory of one call_batch: a table of slices, the payloads one
// behind the other, and room for the answers. Go memory is not lent, because a
// table of Go pointers may not be.
type batch struct {
	slices *C.struct_rollout_slice
	data   unsafe.Pointer
	outs   *C.struct_rollout_result
	count  int
}

func newBatch(payloads [][]byte) *batch {
	total := 0
	for _, p := range payloads {
		total += len(p)
	}
	n := len(payloads)
	b := &batch{
		slices: (*C.struct_rollout_slice)(C.calloc(C.size_t(n), C.sizeof_struct_rollout_slice)),
		data:   C.malloc(C.size_t(max(total, 1))),
		outs:   (*C.struct_rollout_result)(C.calloc(C.size_t(n), C.sizeof_struct_rollout_result)),
		count:  n,
	}
	slices := unsafe.Slice(b.slices, n)
	data := unsafe.Slice((*byte)(b.data), total)
	for i, p := range payloads {
		slices[i].ptr = (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(data)))
		slices[i].len = C.size_t(len(p))
		data = data[copy(data, p):]
	}
	return b
}

func (b *batch) free() {
	C.free(unsafe.Pointer(b.slices))
	C.free(b.data)
	C.free(unsafe.Pointer(b.outs))
}

// CallBatch runs one method for many payloads through the library's call_batch.
// The payloads are copied first and together hold at most a few times
// [core.MaxCallPayload].
func (l *Library) CallBatch(method string, payloads [][]byte) ([]core.CallResult, error) {
	if len(payloads) == 0 {
		return nil, nil
	}
	b := newBatch(payloads)
	defer b.free()
	m := (*C.uint8_t)(unsafe.Pointer(unsafe.StringData(method)))
	rc := C.cabi_batch(l.vtable, m, C.size_t(len(method)), b.slices, C.size_t(b.count), b.outs)
	defer C.cabi_free_batch(l.vtable, b.outs, C.size_t(b.count))

	outs := unsafe.Slice(b.outs, b.count)
	if rc != 0 {
		_, err := read(true, int32(rc), &outs[0])
		return nil, err
	}
	results := make([]core.CallResult, b.count)
	for i := range outs {
		results[i].Result, results[i].Err = read(outs[i].code != 0, int32(outs[i].code), &outs[i])
	}
	return results, nil
}
