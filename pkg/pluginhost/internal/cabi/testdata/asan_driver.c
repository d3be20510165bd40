/*
 * Runs the C path of the host without Go, so that AddressSanitizer sees every
 * byte: opens both libraries, makes each call, reads what the host reads and
 * gives it back. Arguments: v1 library, v2 library, rounds.
 */
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long sum; /* keeps the reads from being optimised away */

static void touch(const struct rollout_buf *b)
{
    if (!b->ptr || b->len > b->cap || b->len > ((size_t)16 << 20))
        return; /* what the host refuses to read */
    for (size_t i = 0; i < b->len; i++)
        sum += b->ptr[i];
}

static struct cabi_table open_it(const char *path)
{
    struct cabi_table t;
    char message[256];
    if (cabi_open(path, "rollout_plugin_factory", &t, message, sizeof message) != CABI_OPENED) {
        fprintf(stderr, "%s: %s\n", path, message);
        exit(2);
    }
    return t;
}

static void call_v2(const void *v, const char *method, const char *payload, size_t len)
{
    struct cabi_answer a = cabi_call_v2(v, (const uint8_t *)method, strlen(method), (const uint8_t *)payload, len);
    touch(&a.res.buf);
    cabi_free_v2(v, a.res.buf.ptr, a.res.buf.len, a.res.buf.cap);
}

static void call_v1(const void *v, const char *method, const char *payload, size_t len)
{
    struct cabi_answer a = cabi_call_v1(v, (const uint8_t *)method, strlen(method), (const uint8_t *)payload, len);
    touch(&a.res.buf);
    cabi_free_v1(v, a.res.buf.ptr, a.res.buf.len, a.res.buf.cap);
}

static void batch(const void *v, const char *method)
{
    enum { N = 5 };
    struct rollout_slice in[N] = {{(const uint8_t *)"a", 1}, {NULL, 0}, {(const uint8_t *)"bad", 3}, {(const uint8_t *)"ccc", 3}, {(const uint8_t *)"d", 1}};
    struct rollout_result out[N];
    memset(out, 0, sizeof out);
    cabi_batch(v, (const uint8_t *)method, strlen(method), in, N, out);
    for (int i = 0; i < N; i++)
        touch(&out[i].buf);
    cabi_free_batch(v, out, N);
}

int main(int argc, char **argv)
{
    static const char *const methods[] = {"echo", "live", "empty", "nothing", "fail", "silent", "throttled", "after", "null-length", "long-length", "fail-long-length", "unheard-of"};
    if (argc != 4)
        return 2;
    struct cabi_table v1 = open_it(argv[1]), v2 = open_it(argv[2]);
    struct cabi_answer a = cabi_init(v2.vtable, (const uint8_t *)"{}", 2);
    cabi_free_v2(v2.vtable, a.res.buf.ptr, a.res.buf.len, a.res.buf.cap);
    a = cabi_preflight(v2.vtable);
    cabi_free_v2(v2.vtable, a.res.buf.ptr, a.res.buf.len, a.res.buf.cap);
    for (long i = 0; i < atol(argv[3]); i++) {
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            call_v1(v1.vtable, methods[m], "payload", (size_t)i % 8);
            call_v2(v2.vtable, methods[m], "payload", (size_t)i % 8);
        }
        if (i % 100 == 0)
            call_v2(v2.vtable, "huge", NULL, 0);
        batch(v2.vtable, "echo");
        batch(v2.vtable, "fail-batch");
    }
    cabi_shutdown(v2.vtable);
    printf("clean %lu\n", sum);
    return 0;
}
