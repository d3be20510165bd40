// Package main is a plugin in Go, built as a shared library:
//
//	go build -buildmode=c-shared -o libgoupper.so .
//
// Such a library brings a Go runtime of its own, and two of them in one process are
// not supported: its manifest asks for isolation = "process". A sidecar made with
// pkg/pluginsdk is the simpler way to write a plugin in Go; this one shows that any
// language that can make a C library is enough.
package main

/*
#include <stdlib.h>
#define ROLLOUT_PLUGIN_NO_HELPERS
#include "../../../include/rollout_plugin.h"

extern int32_t goCall(uint8_t *, size_t, uint8_t *, size_t, struct rollout_result *);
extern void goFree(struct rollout_buf);

static int32_t call(const uint8_t *method, size_t method_len, const uint8_t *payload,
                    size_t payload_len, struct rollout_result *out)
{
	return goCall((uint8_t *)method, method_len, (uint8_t *)payload, payload_len, out);
}

static const struct rollout_plugin_v2 plugin = {
	.abi_version = ROLLOUT_PLUGIN_ABI_V2,
	.struct_size = sizeof(struct rollout_plugin_v2),
	.name = "go-upper",
	.version = "0.1.0",
	.flags = ROLLOUT_PLUGIN_THREAD_SAFE,
	.call = call,
	.free_buf = goFree,
};

static const struct rollout_plugin_v2 *table(void) { return &plugin; }
*/
import "C"

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"
)

func main() {}

//export rollout_plugin_factory
func rollout_plugin_factory() unsafe.Pointer { return unsafe.Pointer(C.table()) }

//export goCall
func goCall(method *C.uint8_t, methodLen C.size_t, payload *C.uint8_t, payloadLen C.size_t, out *C.struct_rollout_result) C.int32_t {
	result, err := answer(string(view(method, methodLen)), view(payload, payloadLen))
	if err != nil {
		out.code = C.ROLLOUT_UNKNOWN_METHOD
		result = []byte(err.Error())
	}
	out.buf.ptr = (*C.uint8_t)(C.CBytes(result))
	out.buf.len = C.size_t(len(result))
	out.buf.cap = C.size_t(len(result))
	if err != nil {
		return 1
	}
	return 0
}

//export goFree
func goFree(b C.struct_rollout_buf) { C.free(unsafe.Pointer(b.ptr)) }

// view is the host's memory, valid until the call returns.
func view(p *C.uint8_t, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), n) }

// answer is the plugin itself.
func answer(method string, payload []byte) ([]byte, error) {
	switch method {
	case "upper":
		return bytes.ToUpper(payload), nil
	case "echo":
		return payload, nil
	case "collect":
		runtime.GC()
		return nil, nil
	}
	return nil, fmt.Errorf("no method %s", method)
}
