/* Tables that no host may call into; BREAK chooses which. */
#define ROLLOUT_PLUGIN_NO_HELPERS
#include "rollout_plugin.h"

#define NO_TABLE 1
#define MISALIGNED 2
#define OTHER_VERSION 3
#define V1_NO_CALL 4
#define V1_NO_FREE 5
#define V1_NO_NAME 6
#define V2_SMALL 7
#define V2_NO_CALL 8
#define V2_FLAGS 9
#define LONG_NAME 10
#define V2_NO_FREE 11

static int32_t call1(const uint8_t *m, size_t ml, const uint8_t *p, size_t pl,
                     struct rollout_buf *out)
{
    (void)m, (void)ml, (void)p, (void)pl, (void)out;
    __builtin_trap(); /* a refused table must never be called */
}

static int32_t call2(const uint8_t *m, size_t ml, const uint8_t *p, size_t pl,
                     struct rollout_result *out)
{
    (void)m, (void)ml, (void)p, (void)pl, (void)out;
    __builtin_trap();
}

static void free_buf(struct rollout_buf b) { (void)b; }

static struct rollout_plugin_v1 v1 = {1, "broken", call1, free_buf};
static struct rollout_plugin_v2 v2 = {
    2, sizeof(struct rollout_plugin_v2), "broken", 0, 0, 0, 0, call2, 0, 0, free_buf};
static char long_name[1024];

const void *rollout_plugin_factory(void)
{
    switch (BREAK) {
    case NO_TABLE: return 0;
    case MISALIGNED: return (const char *)&v2 + 1;
    case OTHER_VERSION: v1.abi_version = 3; return &v1;
    case V1_NO_CALL: v1.call = 0; return &v1;
    case V1_NO_FREE: v1.free_buf = 0; return &v1;
    case V1_NO_NAME: v1.name = 0; return &v1;
    case V2_SMALL: v2.struct_size = 72; return &v2;
    case V2_NO_CALL: v2.call = 0; return &v2;
    case V2_NO_FREE: v2.free_buf = 0; return &v2;
    case V2_FLAGS: v2.flags = 6; return &v2;
    case LONG_NAME:
        for (size_t i = 0; i < sizeof long_name; i++) long_name[i] = 'x';
        v1.name = long_name;
        return &v1;
    }
    __builtin_trap();
}
