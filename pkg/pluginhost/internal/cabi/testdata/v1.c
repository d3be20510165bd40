/* A version 1 plugin, as one written for the Rust original would be in C. */
#include "rollout_plugin.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static long live;

static int32_t call(const uint8_t *method, size_t mlen, const uint8_t *payload, size_t plen,
                    struct rollout_buf *out)
{
    char text[32];
    if (rollout_is(method, mlen, "live"))
        snprintf(text, sizeof text, "%ld", live);
    live++;
    if (rollout_is(method, mlen, "live"))
        return rollout_reply(out, text, strlen(text));
    if (rollout_is(method, mlen, "empty"))
        return rollout_reply(out, "", 0);
    if (rollout_is(method, mlen, "fail")) {
        rollout_reply(out, "failed as asked", 15);
        return 3;
    }
    if (rollout_is(method, mlen, "silent")) {
        live--;
        return 9;
    }
    if (rollout_is(method, mlen, "wait")) { /* until a byte comes over the descriptor named */
        char number[32] = {0}, byte;
        memcpy(number, payload, plen < 31 ? plen : 31);
        while (read(atoi(number), &byte, 1) < 0 && errno == EINTR)
            ;
    }
    return rollout_reply(out, payload, plen);
}

static void free_buf(struct rollout_buf b)
{
    live--;
    rollout_free(b);
}

static const struct rollout_plugin_v1 table = {
    .abi_version = ROLLOUT_PLUGIN_ABI_V1,
    .name = "old-timer",
    .call = call,
    .free_buf = free_buf,
};

const struct rollout_plugin_v1 *rollout_plugin_factory(void)
{
    return &table;
}
