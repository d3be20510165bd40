/*
 * rollout_plugin.h - the C interface of rollout plugins loaded from a shared library
 *
 * SYNOPSIS
 *     #include "rollout_plugin.h"
 *
 *     const struct rollout_plugin_v2 *rollout_plugin_factory(void);
 *
 *     cc -shared -fPIC -O2 -I include -o libmine.so mine.c
 *
 * DESCRIPTION
 *     A plugin of mode "so" is a shared library that exports one function, by
 *     default rollout_plugin_factory (the manifest's entry.so.symbol names
 *     another). It returns a pointer to a table of functions. The table must stay
 *     valid and unchanged for the life of the process: make it a static const.
 *
 *     The first four bytes of the table are its version. The host compares them
 *     before it reads anything else, and accepts
 *
 *         1   struct rollout_plugin_v1: call and free_buf only. Plugins written
 *             for the Rust original are of this version.
 *         2   struct rollout_plugin_v2: adds init, preflight, call_batch,
 *             shutdown, typed errors and a thread-safety flag.
 *
 *     Any other version is refused with "got N".
 *
 * ORDER OF CALLS
 *     factory, init(config), preflight, then any number of call and call_batch,
 *     then shutdown. Each runs once except call and call_batch. When init or
 *     preflight fails nothing else is called. A table entry that is NULL and
 *     marked optional counts as success. Functions run on threads of the host:
 *     do not rely on which one, and leave nothing in thread-local variables.
 *
 *     Calls are serialised, unless flags holds ROLLOUT_PLUGIN_THREAD_SAFE: then
 *     as many as the manifest's runtime.concurrency run at once. init, preflight
 *     and shutdown never overlap anything; shutdown is left out when a call hangs.
 *
 * MEMORY
 *     Host memory: method, payload, config and payload arrays belong to the host
 *     and are valid until the function returns. They are not NUL-terminated; a
 *     pointer of length 0 may be NULL. Copy what is needed later.
 *
 *     Plugin memory: what a function leaves in a struct rollout_buf belongs to
 *     the plugin. The host copies it out and then gives the very same struct to
 *     free_buf, exactly once, whenever ptr is not NULL: also after a failure, also
 *     when len is 0. With ptr NULL, free_buf is not called. Give the fields
 *     ptr (start), len (bytes filled in) and cap (bytes allocated, at least len).
 *
 *     The host zeroes every struct that it hands out to be filled in.
 *
 * LIMITS
 *     A payload and a result hold at most 16 MiB, a method 255 bytes, a batch 4096
 *     payloads. A longer result is dropped and reported as too_large. Error
 *     messages are cut at 4096 bytes.
 *
 * ERRORS
 *     A function returns 0 for success and anything else for failure. After a
 *     failure the buf may hold a message in UTF-8 for people, and in version 2
 *     code and retry say what the caller should do; all zero means "the plugin
 *     failed, do not retry". The caller sees code plugin_error with the message,
 *     or plugin_contract for ROLLOUT_UNKNOWN_METHOD.
 *
 * WHAT THE HOST CANNOT DO
 *     A library loaded into the worker shares its memory: a crash ends the worker,
 *     and a function that does not return cannot be stopped. The caller gets its
 *     deadline error, the plugin is marked poisoned and takes no further calls
 *     until the worker restarts. With isolation = "process" in the manifest the same
 *     library runs in a process of its own, where both cost only that process.
 *
 *     Each load opens a private copy, so that two plugins made from one file
 *     share no variables, and replacing the file changes nothing that runs. A
 *     library is never unloaded. It finds other libraries through the system's
 *     search path or an absolute RUNPATH; $ORIGIN is the private copy's place.
 *     Libraries built by Go (-buildmode=c-shared) carry a second Go runtime and
 *     need isolation = "process".
 */
#ifndef ROLLOUT_PLUGIN_H
#define ROLLOUT_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ROLLOUT_PLUGIN_ABI_V1 1u
#define ROLLOUT_PLUGIN_ABI_V2 2u

/* Bytes owned by the plugin. Passed to free_buf by value. 24 bytes on 64-bit. */
struct rollout_buf {
    uint8_t *ptr; /* start, or NULL for nothing */
    size_t len;   /* bytes filled in */
    size_t cap;   /* bytes allocated, at least len */
};

/* Bytes owned by the host. */
struct rollout_slice {
    const uint8_t *ptr; /* start; may be NULL when len is 0 */
    size_t len;
};

/*
 * Version 1. 32 bytes on 64-bit: abi_version at 0, name at 8, call at 16,
 * free_buf at 24. Every entry is required.
 */
struct rollout_plugin_v1 {
    uint32_t abi_version; /* ROLLOUT_PLUGIN_ABI_V1 */
    const char *name;     /* UTF-8, NUL-terminated, at most 255 bytes */
    int32_t (*call)(const uint8_t *method, size_t method_len, const uint8_t *payload,
                    size_t payload_len, struct rollout_buf *out);
    void (*free_buf)(struct rollout_buf buf);
};

/* What a failure is; the numbers of the host's error codes. */
enum rollout_code {
    ROLLOUT_OK = 0,
    ROLLOUT_THROTTLED = 1,        /* busy; the same call will pass later */
    ROLLOUT_TRANSIENT = 2,        /* a passing fault */
    ROLLOUT_CONFIG_INVALID = 4,   /* the configuration breaks a rule */
    ROLLOUT_SCHEMA_VIOLATION = 5, /* the payload has another shape than agreed */
    ROLLOUT_UNKNOWN_METHOD = 6,   /* no such method; seen as plugin_contract */
    ROLLOUT_INVALID_ARGUMENT = 8, /* the payload can never be accepted */
    ROLLOUT_NOT_FOUND = 9,        /* what the payload names does not exist */
    ROLLOUT_UNAVAILABLE = 18,     /* something the plugin needs cannot be reached */
    ROLLOUT_PLUGIN_ERROR = 28     /* any other failure */
};

/* Whether and when the same call should be tried again. */
enum rollout_retry {
    ROLLOUT_RETRY_DEFAULT = 0, /* as the code implies: never, unless throttled, transient or unavailable */
    ROLLOUT_RETRY_NOW = 1,     /* at once */
    ROLLOUT_RETRY_AFTER = 2,   /* once retry_ms have passed */
    ROLLOUT_RETRY_BACKOFF = 3  /* at a random time below a bound that doubles from retry_ms to retry_max_ms */
};

/* What a function of version 2 answers. 64 bytes on 64-bit. */
struct rollout_result {
    struct rollout_buf buf; /* the result, or after a failure the message */
    uint32_t code;          /* enum rollout_code; only read after a failure, and of each item of a batch */
    uint32_t retry;         /* enum rollout_retry; only read after a failure */
    uint64_t retry_ms;      /* milliseconds */
    uint64_t retry_max_ms;  /* milliseconds */
    uint64_t reserved[2];   /* leave zero */
};

/* Flags of version 2. Unknown bits are refused. */
#define ROLLOUT_PLUGIN_THREAD_SAFE 1u /* call and call_batch may run many times at once */

/*
 * Version 2. 80 bytes on 64-bit. struct_size is sizeof(struct rollout_plugin_v2)
 * as the plugin was compiled: fields are only ever appended, a host reads those it
 * knows, and a table smaller than this one is refused.
 */
struct rollout_plugin_v2 {
    uint32_t abi_version; /* ROLLOUT_PLUGIN_ABI_V2 */
    uint32_t struct_size; /* sizeof(struct rollout_plugin_v2) */
    const char *name;     /* UTF-8, NUL-terminated, at most 255 bytes; required */
    const char *version;  /* the author's version, likewise; optional */
    uint64_t flags;       /* ROLLOUT_PLUGIN_THREAD_SAFE or 0 */

    /* Optional. config is the manifest's [config] table as a JSON object. */
    int32_t (*init)(const uint8_t *config, size_t config_len, struct rollout_result *out);

    /* Optional. Proves that the plugin can work; a result is ignored. */
    int32_t (*preflight)(struct rollout_result *out);

    /* Required. Runs one method. */
    int32_t (*call)(const uint8_t *method, size_t method_len, const uint8_t *payload,
                    size_t payload_len, struct rollout_result *out);

    /*
     * Optional; without it the host uses call for each payload. Answers payload i
     * in outs[i], where code other than ROLLOUT_OK is a failure of that item only.
     * A return other than 0 fails the whole batch, and outs[0] says why; every
     * buf of outs is freed all the same.
     */
    int32_t (*call_batch)(const uint8_t *method, size_t method_len,
                          const struct rollout_slice *payloads, size_t count,
                          struct rollout_result *outs);

    /* Optional. Runs once, after the last call. */
    void (*shutdown)(void);

    /* Required. Releases what a function left in a buf. */
    void (*free_buf)(struct rollout_buf buf);
};

/*
 * Helpers for plugins in C that allocate with malloc; define
 * ROLLOUT_PLUGIN_NO_HELPERS to leave them out.
 *
 *     rollout_reply(&out->buf, data, len)      copies data into a new buf
 *     rollout_fail(out, code, "message")       fills in a failure
 *     rollout_is(method, method_len, "echo")   compares a method's name
 *     rollout_free                             a free_buf for both
 *
 * The first two return what the plugin function should return.
 */
#ifndef ROLLOUT_PLUGIN_NO_HELPERS
#include <stdlib.h>
#include <string.h>

static inline int32_t rollout_reply(struct rollout_buf *buf, const void *data, size_t len)
{
    buf->ptr = (uint8_t *)malloc(len ? len : 1);
    if (!buf->ptr)
        return -1;
    if (len)
        memcpy(buf->ptr, data, len);
    buf->len = len;
    buf->cap = len ? len : 1;
    return 0;
}

static inline int32_t rollout_fail(struct rollout_result *out, enum rollout_code code,
                                   const char *message)
{
    out->code = (uint32_t)code;
    rollout_reply(&out->buf, message, strlen(message));
    return -1;
}

static inline int rollout_is(const uint8_t *method, size_t method_len, const char *name)
{
    return method_len == strlen(name) && memcmp(method, name, method_len) == 0;
}

static inline void rollout_free(struct rollout_buf buf)
{
    free(buf.ptr);
}
#endif

#ifdef __cplusplus
}
#endif

#endif
