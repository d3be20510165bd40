/*
 * The few calls of libpython that embedding needs, found at run time: no Python
 * header is used, only functions of the stable ABI of 3.11 and later.
 *
 * There is one interpreter in a process, because libpython keeps it in variables
 * of its own. Everything below shares it.
 */
#ifndef ROLLOUT_PYEMBED_SHIM_H
#define ROLLOUT_PYEMBED_SHIM_H

#include <stddef.h>
#include <stdint.h>

/*
 * Opens the library at path and starts the interpreter on a thread of its own,
 * which stays. program becomes sys.executable and decides sys.prefix. source is
 * Python that defines the functions named in shim_linux.c. Returns 0, or -1 with
 * text in message. A second call returns 0 at once: compare rp_path first.
 */
int rp_open(const char *path, const char *program, const char *source, char *message,
            size_t message_len);

/* The path of the library that is open, or NULL. Valid for ever. */
const char *rp_path(void);

/* One thread with an instance of a plugin. Used by that thread only, except rp_interrupt. */
struct rp_thread;

/* Makes the calling thread known to Python. NULL when memory is short. */
struct rp_thread *rp_begin(void);

/* Forgets the calling thread and frees t. */
void rp_end(struct rp_thread *t);

/* What rp_run runs. The first two are bound by rp_bind. */
enum rp_which { RP_CALL = 0, RP_BATCH = 1, RP_CONTROL = 2 };

/* Takes the callables of the instance that this thread has made. Returns 0 or -1. */
int rp_bind(struct rp_thread *t);

/* What a run left. ptr is valid until the next rp_run, rp_drop or rp_end. */
struct rp_out {
    const uint8_t *ptr;
    size_t len;
    int failed; /* ptr is the JSON of an error */
    int held;   /* this thread still holds the interpreter's lock */
};

/*
 * Runs one callable with (str, bytes). seq names the run for rp_interrupt. With
 * more set the lock is kept for the next run, unless this one was long; without
 * it the lock is given back.
 */
struct rp_out rp_run(struct rp_thread *t, int which, const char *method, size_t method_len,
                     const uint8_t *payload, size_t payload_len, uint64_t seq, int more);

/* Gives back the lock, if held. */
void rp_release(struct rp_thread *t);

/* Drops what the last run left and gives back the lock. */
void rp_drop(struct rp_thread *t);

/*
 * Raises Cancelled in the thread, if it runs seq; a run that has not begun yet
 * does not begin. Any thread may call; it waits for the interpreter's lock.
 */
void rp_interrupt(struct rp_thread *t, uint64_t seq);

/* Whether the thread runs seq now, rather than waiting for the lock. Waits for nothing. */
int rp_began(struct rp_thread *t, uint64_t seq);

#endif
