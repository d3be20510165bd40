/*
 * Reward for grade-school maths in C; gsm8k_reward.py says what it computes.
 *
 * The payload is one JSON object. Only its texts "reference" and "completion" are
 * looked at, as they stand in the JSON: the answer behind the last "A:" holds no
 * character that JSON escapes.
 */
#include <stdlib.h>
#include <string.h>

#include "rollout_plugin.h"

/* A part of the payload. */
struct text {
    const char *p;
    size_t n;
};

/* Returns the index behind the string that starts with the quote at i, or n. */
static size_t skip_string(const char *p, size_t n, size_t i) {
    for (i++; i < n; i++) {
        if (p[i] == '\\')
            i++;
        else if (p[i] == '"')
            return i + 1;
    }
    return n;
}

static size_t skip_space(const char *p, size_t n, size_t i) {
    while (i < n && (p[i] == ' ' || p[i] == '\t' || p[i] == '\n' || p[i] == '\r'))
        i++;
    return i;
}

/* Finds the text of a key of the outermost object. Returns 0 when there is none. */
static int find_text(const char *p, size_t n, const char *key, struct text *out) {
    size_t key_len = strlen(key), i = 0;
    int depth = 0;
    while (i < n) {
        if (p[i] == '{' || p[i] == '[') {
            depth++;
            i++;
        } else if (p[i] == '}' || p[i] == ']') {
            depth--;
            i++;
        } else if (p[i] == '"') {
            size_t start = i, end = skip_string(p, n, i);
            i = skip_space(p, n, end);
            if (depth != 1 || i >= n || p[i] != ':')
                continue;
            i = skip_space(p, n, i + 1);
            if (i >= n || p[i] != '"')
                continue;
            size_t value_end = skip_string(p, n, i);
            if (end - start - 2 == key_len && memcmp(p + start + 1, key, key_len) == 0) {
                if (value_end == n && p[n - 1] != '"')
                    return 0;
                out->p = p + i + 1;
                out->n = value_end - i - 2;
                return 1;
            }
            i = value_end;
        } else {
            i++;
        }
    }
    return 0;
}

/* Reads the number behind the last "A:", without "$" and ",". */
static int answer(struct text t, double *out) {
    char digits[64];
    size_t at = t.n, k = 0, i;
    for (i = 0; i + 1 < t.n; i++)
        if (t.p[i] == 'A' && t.p[i + 1] == ':')
            at = i + 2;
    if (at >= t.n)
        return 0;
    int seen_digit = 0, seen_point = 0;
    for (i = at; i < t.n && k + 1 < sizeof digits; i++) {
        char c = t.p[i];
        if (c == '$' || c == ',')
            continue;
        if (k == 0 && (c == ' ' || c == '\t'))
            continue;
        if (k == 0 && (c == '-' || c == '+')) {
            digits[k++] = c;
            continue;
        }
        if (c == '.' && !seen_point && i + 1 < t.n && t.p[i + 1] >= '0' && t.p[i + 1] <= '9') {
            seen_point = 1;
        } else if (c >= '0' && c <= '9') {
            seen_digit = 1;
        } else {
            break;
        }
        digits[k++] = c;
    }
    digits[k] = 0;
    if (!seen_digit)
        return 0;
    *out = strtod(digits, NULL);
    return 1;
}

static int32_t score(const uint8_t *payload, size_t len, struct rollout_result *out) {
    const char *p = (const char *)payload;
    struct text want, got;
    double a, b;
    if (!find_text(p, len, "reference", &want) || !find_text(p, len, "completion", &got))
        return rollout_fail(out, ROLLOUT_SCHEMA_VIOLATION, "the line has no text reference or no text completion");
    if (answer(want, &a) && answer(got, &b) && a == b)
        return rollout_reply(&out->buf, "{\"reward\": 1.0}", 15);
    return rollout_reply(&out->buf, "{\"reward\": 0.0}", 15);
}

static int32_t call(const uint8_t *method, size_t method_len, const uint8_t *payload, size_t len,
                    struct rollout_result *out) {
    if (!rollout_is(method, method_len, "score"))
        return rollout_fail(out, ROLLOUT_UNKNOWN_METHOD, "this plugin has the method score");
    return score(payload, len, out);
}

static int32_t preflight(struct rollout_result *out) {
    static const char line[] = "{\"reference\": \"A: 1,000\", \"completion\": \"A: $1000\"}";
    int32_t rc = score((const uint8_t *)line, sizeof line - 1, out);
    if (rc == 0 && (out->buf.len != 15 || memcmp(out->buf.ptr, "{\"reward\": 1.0}", 15) != 0)) {
        rollout_free(out->buf);
        out->buf = (struct rollout_buf){0};
        return rollout_fail(out, ROLLOUT_PLUGIN_ERROR, "a right answer scores 0");
    }
    return rc;
}

/* call keeps nothing, so it may run many times at once. */
const struct rollout_plugin_v2 *rollout_plugin_factory(void) {
    static const struct rollout_plugin_v2 table = {
        .abi_version = ROLLOUT_PLUGIN_ABI_V2,
        .struct_size = sizeof(struct rollout_plugin_v2),
        .name = "gsm8k-reward-c",
        .version = "0.1.0",
        .flags = ROLLOUT_PLUGIN_THREAD_SAFE,
        .preflight = preflight,
        .call = call,
        .free_buf = rollout_free,
    };
    return &table;
}
