//go:build cgo && linux

package ctest

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#define ROLLOUT_PLUGIN_NO_HELPERS
#include "../../../../include/rollout_plugin.h"

static const struct rollout_plugin_v1 *raw_open(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!handle)
		return NULL;
	const struct rollout_plugin_v1 *(*factory)(void);
	*(void **)&factory = dlsym(handle, "rollout_plugin_factory");
	return factory ? factory() : NULL;
}

static int32_t raw_call(const struct rollout_plugin_v1 *v, void *m, size_t ml, void *p, size_t pl,
                        struct rollout_buf *out)
{
	return v->call(m, ml, p, pl, out);
}

static void raw_free(const struct rollout_plugin_v1 *v, struct rollout_buf b)
{
	v->free_buf(b);
}

static void raw_loop(const struct rollout_plugin_v1 *v, void *m, size_t ml, void *p, size_t pl, long n)
{
	struct rollout_buf out;
	for (long i = 0; i < n; i++) {
		v->call(m, ml, p, pl, &out);
		v->free_buf(out);
	}
}
*/
import "C"

import "unsafe"

// Raw calls a plugin of version 1 the way the cgo manual shows, without the checks
// that make it safe: the baseline of benchmarks.
type Raw struct{ table *C.struct_rollout_plugin_v1 }

// OpenRaw opens the library at path.
func OpenRaw(t TB, path string) Raw {
	t.Helper()
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	table := C.raw_open(cpath)
	if table == nil {
		t.Fatalf("%s cannot be opened", path)
	}
	return Raw{table: table}
}

// CallCopying copies method and payload into C memory and the result out of it,
// with C.CBytes and C.GoBytes.
func (r Raw) CallCopying(method string, payload []byte) []byte {
	m, p := C.CString(method), C.CBytes(payload)
	var out C.struct_rollout_buf
	C.raw_call(r.table, unsafe.Pointer(m), C.size_t(len(method)), p, C.size_t(len(payload)), &out)
	C.free(unsafe.Pointer(m))
	C.free(p)
	result := C.GoBytes(unsafe.Pointer(out.ptr), C.int(out.len))
	C.raw_free(r.table, out)
	return result
}

// Loop makes n calls inside C: the limit.
func (r Raw) Loop(method string, payload []byte, n int) {
	m, p := C.CString(method), C.CBytes(payload)
	C.raw_loop(r.table, unsafe.Pointer(m), C.size_t(len(method)), p, C.size_t(len(payload)), C.long(n))
	C.free(unsafe.Pointer(m))
	C.free(p)
}
