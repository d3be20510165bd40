//go:build cgo && linux

#include "shim.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* The ABI is a matter of bytes: a compiler that lays it out otherwise must fail. */
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(struct rollout_buf) == 24, "rollout_buf");
_Static_assert(sizeof(struct rollout_plugin_v1) == 32, "rollout_plugin_v1");
_Static_assert(offsetof(struct rollout_plugin_v1, name) == 8, "v1 name");
_Static_assert(offsetof(struct rollout_plugin_v1, call) == 16, "v1 call");
_Static_assert(offsetof(struct rollout_plugin_v1, free_buf) == 24, "v1 free_buf");
_Static_assert(sizeof(struct rollout_result) == 64, "rollout_result");
_Static_assert(sizeof(struct rollout_plugin_v2) == 80, "rollout_plugin_v2");
#endif

#define NAME_MAX_LEN 255

static void say(char *message, size_t len, const char *text)
{
    snprintf(message, len, "%s", text ? text : "no reason given");
}

/* A name must end within its limit, else reading it would run through memory. */
static int text_ends(const char *s)
{
    return strnlen(s, NAME_MAX_LEN + 1) <= NAME_MAX_LEN;
}

static const char *check_v1(const struct rollout_plugin_v1 *v, struct cabi_table *t)
{
    if (!v->name)
        return "name is NULL";
    if (!v->call)
        return "call is NULL";
    if (!v->free_buf)
        return "free_buf is NULL";
    if (!text_ends(v->name))
        return "name is longer than 255 bytes";
    t->name = v->name;
    return NULL;
}

static const char *check_v2(const struct rollout_plugin_v2 *v, struct cabi_table *t)
{
    if (v->struct_size < sizeof *v)
        return "struct_size is smaller than struct rollout_plugin_v2";
    if (!v->name)
        return "name is NULL";
    if (!v->call)
        return "call is NULL";
    if (!v->free_buf)
        return "free_buf is NULL";
    if (!text_ends(v->name))
        return "name is longer than 255 bytes";
    if (v->version && !text_ends(v->version))
        return "version is longer than 255 bytes";
    if (v->flags & ~(uint64_t)ROLLOUT_PLUGIN_THREAD_SAFE)
        return "flags has unknown bits";
    t->name = v->name;
    t->version = v->version;
    t->flags = v->flags;
    t->has_init = v->init != NULL;
    t->has_preflight = v->preflight != NULL;
    t->has_batch = v->call_batch != NULL;
    t->has_shutdown = v->shutdown != NULL;
    return NULL;
}

enum cabi_stage cabi_open(const char *path, const char *symbol, struct cabi_table *table,
                          char *message, size_t message_len)
{
    memset(table, 0, sizeof *table);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
        say(message, message_len, dlerror());
        return CABI_NO_LIBRARY;
    }
    dlerror();
    const void *(*factory)(void);
    /* ISO C has no conversion from object to function pointer; POSIX promises this one. */
    *(void **)&factory = dlsym(handle, symbol);
    if (!factory) {
        say(message, message_len, dlerror());
        return CABI_NO_SYMBOL;
    }
    const void *vtable = factory();
    if (!vtable || (uintptr_t)vtable % _Alignof(struct rollout_plugin_v2) != 0)
        return CABI_NO_TABLE;
    table->vtable = vtable;
    table->abi_version = *(const uint32_t *)vtable;
    const char *wrong;
    switch (table->abi_version) {
    case ROLLOUT_PLUGIN_ABI_V1:
        wrong = check_v1(vtable, table);
        break;
    case ROLLOUT_PLUGIN_ABI_V2:
        wrong = check_v2(vtable, table);
        break;
    default:
        return CABI_WRONG_VERSION;
    }
    if (wrong) {
        say(message, message_len, wrong);
        return CABI_BAD_TABLE;
    }
    return CABI_OPENED;
}

struct cabi_answer cabi_init(const void *vtable, const uint8_t *config, size_t len)
{
    struct cabi_answer a;
    memset(&a, 0, sizeof a);
    a.rc = ((const struct rollout_plugin_v2 *)vtable)->init(config, len, &a.res);
    return a;
}

struct cabi_answer cabi_preflight(const void *vtable)
{
    struct cabi_answer a;
    memset(&a, 0, sizeof a);
    a.rc = ((const struct rollout_plugin_v2 *)vtable)->preflight(&a.res);
    return a;
}

struct cabi_answer cabi_call_v1(const void *vtable, const uint8_t *method, size_t method_len,
                                const uint8_t *payload, size_t payload_len)
{
    struct cabi_answer a;
    memset(&a, 0, sizeof a);
    a.rc = ((const struct rollout_plugin_v1 *)vtable)
               ->call(method, method_len, payload, payload_len, &a.res.buf);
    return a;
}

struct cabi_answer cabi_call_v2(const void *vtable, const uint8_t *method, size_t method_len,
                                const uint8_t *payload, size_t payload_len)
{
    struct cabi_answer a;
    memset(&a, 0, sizeof a);
    a.rc = ((const struct rollout_plugin_v2 *)vtable)
               ->call(method, method_len, payload, payload_len, &a.res);
    return a;
}

int32_t cabi_batch(const void *vtable, const uint8_t *method, size_t method_len,
                   const struct rollout_slice *payloads, size_t count,
                   struct rollout_result *outs)
{
    return ((const struct rollout_plugin_v2 *)vtable)
        ->call_batch(method, method_len, payloads, count, outs);
}

void cabi_shutdown(const void *vtable)
{
    ((const struct rollout_plugin_v2 *)vtable)->shutdown();
}

void cabi_free_v1(const void *vtable, uint8_t *ptr, size_t len, size_t cap)
{
    if (ptr)
        ((const struct rollout_plugin_v1 *)vtable)
            ->free_buf((struct rollout_buf){.ptr = ptr, .len = len, .cap = cap});
}

void cabi_free_v2(const void *vtable, uint8_t *ptr, size_t len, size_t cap)
{
    if (ptr)
        ((const struct rollout_plugin_v2 *)vtable)
            ->free_buf((struct rollout_buf){.ptr = ptr, .len = len, .cap = cap});
}

void cabi_free_batch(const void *vtable, struct rollout_result *outs, size_t count)
{
    for (size_t i = 0; i < count; i++)
        cabi_free_v2(vtable, outs[i].buf.ptr, outs[i].buf.len, outs[i].buf.cap);
}

void cabi_plain_faults(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        signal(faults[i], SIG_DFL);
}
