/* What Go calls. Every function here runs on the calling thread and keeps nothing. */
#ifndef ROLLOUT_CABI_SHIM_H
#define ROLLOUT_CABI_SHIM_H

#define ROLLOUT_PLUGIN_NO_HELPERS
#include "../../../../include/rollout_plugin.h"

/* How far cabi_open came. */
enum cabi_stage {
    CABI_OPENED = 0,
    CABI_NO_LIBRARY = 1,   /* message: the loader's */
    CABI_NO_SYMBOL = 2,    /* message: the loader's */
    CABI_NO_TABLE = 3,     /* the factory returned NULL or a misaligned pointer */
    CABI_WRONG_VERSION = 4,
    CABI_BAD_TABLE = 5     /* message: static text */
};

/* A checked table, in the terms of version 2. name and version point into the plugin. */
struct cabi_table {
    const void *vtable;
    uint32_t abi_version;
    uint64_t flags;
    const char *name;
    const char *version; /* may be NULL */
    int has_init, has_preflight, has_batch, has_shutdown;
};

/*
 * Opens path, finds symbol, calls it and checks what it returns. message holds
 * NUL-terminated text when the stage says so. Nothing is ever closed.
 */
enum cabi_stage cabi_open(const char *path, const char *symbol, struct cabi_table *table,
                          char *message, size_t message_len);

/* What a plugin function returned. */
struct cabi_answer {
    int32_t rc;
    struct rollout_result res;
};

struct cabi_answer cabi_init(const void *vtable, const uint8_t *config, size_t len);
struct cabi_answer cabi_preflight(const void *vtable);
struct cabi_answer cabi_call_v1(const void *vtable, const uint8_t *method, size_t method_len,
                                const uint8_t *payload, size_t payload_len);
struct cabi_answer cabi_call_v2(const void *vtable, const uint8_t *method, size_t method_len,
                                const uint8_t *payload, size_t payload_len);
int32_t cabi_batch(const void *vtable, const uint8_t *method, size_t method_len,
                   const struct rollout_slice *payloads, size_t count,
                   struct rollout_result *outs);
void cabi_shutdown(const void *vtable);

/* Gives a buf back to the plugin, unless it holds nothing. */
void cabi_free_v1(const void *vtable, uint8_t *ptr, size_t len, size_t cap);
void cabi_free_v2(const void *vtable, uint8_t *ptr, size_t len, size_t cap);

/* Gives back every buf of a batch. */
void cabi_free_batch(const void *vtable, struct rollout_result *outs, size_t count);

/* Lets faults end the process by their signal, as in a C program. */
void cabi_plain_faults(void);

#endif
