/* A version 2 plugin with every habit, good and bad, that the tests need. */
#include "rollout_plugin.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#ifndef FLAGS
#define FLAGS 0
#endif

static long live;  /* bufs not yet given back */
static long calls; /* calls so far, of this copy of the library */
static int inited, flighted, down;
static char config_text[256];

static int32_t init(const uint8_t *config, size_t len, struct rollout_result *out)
{
    if (len >= sizeof config_text)
        return rollout_fail(out, ROLLOUT_CONFIG_INVALID, "config is too long");
    memcpy(config_text, config, len);
    config_text[len] = 0;
    if (strstr(config_text, "\"refuse\":true")) {
        live++;
        return rollout_fail(out, ROLLOUT_CONFIG_INVALID, "refused by config");
    }
    inited++;
    return 0;
}

static int32_t preflight(struct rollout_result *out)
{
    if (strstr(config_text, "\"unfit\":true")) {
        live++;
        return rollout_fail(out, ROLLOUT_UNAVAILABLE, "unfit by config");
    }
    flighted += inited;
    return 0;
}

static int32_t reply(struct rollout_result *out, const void *data, size_t len)
{
    live++;
    return rollout_reply(&out->buf, data, len);
}

static int32_t fail(struct rollout_result *out, enum rollout_code code, const char *text)
{
    live++;
    return rollout_fail(out, code, text);
}

static int32_t number(struct rollout_result *out, long n)
{
    char text[32];
    return reply(out, text, (size_t)snprintf(text, sizeof text, "%ld", n));
}

static int32_t call(const uint8_t *method, size_t mlen, const uint8_t *payload, size_t plen,
                    struct rollout_result *out)
{
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    if (rollout_is(method, mlen, "echo"))
        return reply(out, payload, plen);
    if (rollout_is(method, mlen, "config"))
        return reply(out, config_text, strlen(config_text));
    if (rollout_is(method, mlen, "live"))
        return number(out, live);
    if (rollout_is(method, mlen, "calls"))
        return number(out, calls);
    if (rollout_is(method, mlen, "ready"))
        return number(out, flighted);
    if (rollout_is(method, mlen, "empty"))
        return reply(out, "", 0);
    if (rollout_is(method, mlen, "nothing"))
        return 0;
    if (rollout_is(method, mlen, "fail"))
        return fail(out, ROLLOUT_OK, "failed as asked");
    if (rollout_is(method, mlen, "silent"))
        return 7;
    if (rollout_is(method, mlen, "throttled"))
        return fail(out, ROLLOUT_THROTTLED, "busy");
    if (rollout_is(method, mlen, "after")) {
        out->retry = ROLLOUT_RETRY_AFTER;
        out->retry_ms = 1500;
        return fail(out, ROLLOUT_PLUGIN_ERROR, "later");
    }
    if (rollout_is(method, mlen, "null-length")) { /* a length without bytes */
        out->buf.len = 10;
        out->buf.cap = 10;
        return 0;
    }
    if (rollout_is(method, mlen, "long-length")) { /* more filled in than allocated */
        reply(out, "abc", 3);
        out->buf.len = SIZE_MAX / 2;
        return 0;
    }
    if (rollout_is(method, mlen, "fail-long-length")) {
        fail(out, ROLLOUT_PLUGIN_ERROR, "abc");
        out->buf.len = SIZE_MAX;
        return -1;
    }
    if (rollout_is(method, mlen, "huge")) { /* one byte above the limit, honestly */
        size_t n = ((size_t)16 << 20) + 1;
        out->buf.ptr = calloc(1, n);
        out->buf.len = out->buf.cap = n;
        live++;
        return 0;
    }
    if (rollout_is(method, mlen, "wait")) { /* until a byte comes over the descriptor named */
        char text[32] = {0}, byte;
        memcpy(text, payload, plen < 31 ? plen : 31);
        while (read(atoi(text), &byte, 1) < 0 && errno == EINTR)
            ;
        return reply(out, "woke", 4);
    }
    if (rollout_is(method, mlen, "sleep")) {
        sleep(60);
        return 0;
    }
    if (rollout_is(method, mlen, "crash"))
        abort();
    return fail(out, ROLLOUT_UNKNOWN_METHOD, "no such method");
}

static int32_t call_batch(const uint8_t *method, size_t mlen, const struct rollout_slice *p,
                          size_t n, struct rollout_result *outs)
{
    if (rollout_is(method, mlen, "fail-batch")) {
        if (n > 1)
            reply(&outs[1], "left behind", 11);
        return fail(&outs[0], ROLLOUT_TRANSIENT, "whole batch");
    }
    for (size_t i = 0; i < n; i++) {
        if (p[i].len == 3 && memcmp(p[i].ptr, "bad", 3) == 0)
            fail(&outs[i], ROLLOUT_INVALID_ARGUMENT, "bad item");
        else if (call(method, mlen, p[i].ptr, p[i].len, &outs[i]) != 0 && outs[i].code == ROLLOUT_OK)
            outs[i].code = ROLLOUT_PLUGIN_ERROR;
    }
    return 0;
}

static void stop(void)
{
    down++;
    if (strstr(config_text, "\"farewell\":true"))
        fprintf(stderr, "shutdown %d\n", down);
    const char *path = strstr(config_text, "\"marker\":\"");
    if (path) {
        char name[256] = {0};
        path += 10;
        memcpy(name, path, strcspn(path, "\""));
        FILE *f = fopen(name, "w");
        if (f) {
            fprintf(f, "shutdown %d\n", down);
            fclose(f);
        }
    }
}

static void free_buf(struct rollout_buf b)
{
    live--;
    rollout_free(b);
}

static const struct rollout_plugin_v2 table = {
    .abi_version = ROLLOUT_PLUGIN_ABI_V2,
    .struct_size = sizeof(struct rollout_plugin_v2),
    .name = "habits",
    .version = "2.0.0",
    .flags = FLAGS,
    .init = init,
    .preflight = preflight,
    .call = call,
#ifndef NO_BATCH
    .call_batch = call_batch,
#endif
    .shutdown = stop,
    .free_buf = free_buf,
};

const struct rollout_plugin_v2 *rollout_plugin_factory(void)
{
    return &table;
}
