/*
 * A plugin in C: counts words. Build it with
 *
 *     cc -shared -fPIC -O2 -I ../../../include -o libwordcount.so wordcount.c
 */
#include "rollout_plugin.h"

#include <ctype.h>
#include <stdio.h>

static int32_t count(const uint8_t *text, size_t len, struct rollout_result *out)
{
    size_t words = 0;
    int inside = 0;
    for (size_t i = 0; i < len; i++) {
        int space = isspace(text[i]);
        words += !space && !inside;
        inside = !space;
    }
    char reply[32];
    int n = snprintf(reply, sizeof reply, "%zu", words);
    return rollout_reply(&out->buf, reply, (size_t)n);
}

static int32_t call(const uint8_t *method, size_t method_len, const uint8_t *payload,
                    size_t payload_len, struct rollout_result *out)
{
    if (rollout_is(method, method_len, "count"))
        return count(payload, payload_len, out);
    if (rollout_is(method, method_len, "echo"))
        return rollout_reply(&out->buf, payload, payload_len);
    return rollout_fail(out, ROLLOUT_UNKNOWN_METHOD, "methods are count and echo");
}

/* Proves that a call works before the worker is told that the plugin is ready. */
static int32_t preflight(struct rollout_result *out)
{
    struct rollout_result echo = {0};
    int32_t rc = call((const uint8_t *)"echo", 4, (const uint8_t *)"ready", 5, &echo);
    int same = rc == 0 && echo.buf.len == 5 && memcmp(echo.buf.ptr, "ready", 5) == 0;
    rollout_free(echo.buf);
    return same ? 0 : rollout_fail(out, ROLLOUT_PLUGIN_ERROR, "echo does not answer");
}

static const struct rollout_plugin_v2 plugin = {
    .abi_version = ROLLOUT_PLUGIN_ABI_V2,
    .struct_size = sizeof(struct rollout_plugin_v2),
    .name = "wordcount",
    .version = "0.1.0",
    .flags = ROLLOUT_PLUGIN_THREAD_SAFE, /* no variable is shared between calls */
    .preflight = preflight,
    .call = call,
    .free_buf = rollout_free,
};

const struct rollout_plugin_v2 *rollout_plugin_factory(void)
{
    return &plugin;
}
