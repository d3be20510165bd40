//go:build cgo && linux

#include "shim.h"

#include <dlfcn.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

typedef struct _object PyObject;
typedef struct _ts PyThreadState;
typedef ssize_t Py_ssize_t;

/* Py_file_input of the grammar, the same in every version. */
#define FILE_INPUT 257

/* A run that has taken longer gives the lock back although more calls wait. */
#define HOLD_NS 20000

#define FUNCTIONS(X)                                                                           \
    X(void, Py_InitializeEx, (int))                                                            \
    X(wchar_t *, Py_DecodeLocale, (const char *, size_t *))                                    \
    X(void, Py_DecRef, (PyObject *))                                                           \
    X(void, Py_IncRef, (PyObject *))                                                           \
    X(PyThreadState *, PyEval_SaveThread, (void))                                              \
    X(void, PyEval_RestoreThread, (PyThreadState *))                                           \
    X(int, PyGILState_Ensure, (void))                                                          \
    X(void, PyGILState_Release, (int))                                                         \
    X(int, PyThreadState_SetAsyncExc, (unsigned long, PyObject *))                             \
    X(unsigned long, PyThread_get_thread_ident, (void))                                        \
    X(PyObject *, PyImport_AddModule, (const char *))                                          \
    X(PyObject *, PyModule_GetDict, (PyObject *))                                              \
    X(PyObject *, PyEval_GetBuiltins, (void))                                                  \
    X(PyObject *, Py_CompileString, (const char *, const char *, int))                         \
    X(PyObject *, PyEval_EvalCode, (PyObject *, PyObject *, PyObject *))                       \
    X(PyObject *, PyDict_GetItemString, (PyObject *, const char *))                            \
    X(int, PyDict_SetItemString, (PyObject *, const char *, PyObject *))                       \
    X(PyObject *, PyUnicode_FromStringAndSize, (const char *, Py_ssize_t))                     \
    X(PyObject *, PyBytes_FromStringAndSize, (const char *, Py_ssize_t))                       \
    X(int, PyBytes_AsStringAndSize, (PyObject *, char **, Py_ssize_t *))                       \
    X(PyObject *, PyObject_CallFunctionObjArgs, (PyObject *, ...))                             \
    X(PyObject *, PyObject_Str, (PyObject *))                                                  \
    X(PyObject *, PyUnicode_AsUTF8String, (PyObject *))                                        \
    X(PyObject *, PySequence_GetItem, (PyObject *, Py_ssize_t))                                \
    X(void, PyErr_Fetch, (PyObject **, PyObject **, PyObject **))                              \
    X(void, PyErr_NormalizeException, (PyObject **, PyObject **, PyObject **))                 \
    X(int, PyException_SetTraceback, (PyObject *, PyObject *))                                 \
    X(void, PyErr_Clear, (void))

/*
 * The library's functions and what the source has defined. Written once under
 * open_lock before anyone reads, and then only read.
 */
static struct {
#define FIELD(ret, name, args) ret(*name) args;
    FUNCTIONS(FIELD)
#undef FIELD
    void (*Py_SetProgramName)(const wchar_t *); /* gone from some later version: then NULL */
    int *Py_UTF8Mode;                           /* likewise */
    PyObject *control;   /* control(op: str, payload: bytes) -> bytes */
    PyObject *bound;     /* bound() -> (call, batch) of this thread's instance */
    PyObject *as_bytes;  /* as_bytes(result) -> bytes, or raises */
    PyObject *describe;  /* describe(exception) -> bytes of JSON */
    PyObject *cancelled; /* the exception class */
} py;

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static char *open_path;  /* guarded by open_lock: set once the interpreter runs */
static char *open_fault; /* guarded by open_lock: why it cannot be used, or NULL */

const char *rp_path(void)
{
    pthread_mutex_lock(&open_lock);
    const char *path = open_path;
    pthread_mutex_unlock(&open_lock);
    return path;
}

static int load(const char *path, char *message, size_t len)
{
    /* Global: extension modules look for libpython's symbols in the whole process. */
    void *lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!lib) {
        snprintf(message, len, "%s", dlerror());
        return -1;
    }
#define FIND(ret, name, args)                                                                  \
    *(void **)&py.name = dlsym(lib, #name);                                                    \
    if (!py.name) {                                                                            \
        snprintf(message, len, "%s has no function %s", path, #name);                          \
        return -1;                                                                             \
    }
    FUNCTIONS(FIND)
#undef FIND
    *(void **)&py.Py_SetProgramName = dlsym(lib, "Py_SetProgramName");
    py.Py_UTF8Mode = dlsym(lib, "Py_UTF8Mode");
    return 0;
}

/* Puts the text of the exception that is set into message, and clears it. */
static void say_error(char *message, size_t len, const char *what)
{
    PyObject *type = NULL, *value = NULL, *trace = NULL, *text = NULL, *bytes = NULL;
    char *p = NULL;
    Py_ssize_t n = 0;
    py.PyErr_Fetch(&type, &value, &trace);
    py.PyErr_NormalizeException(&type, &value, &trace);
    text = value ? py.PyObject_Str(value) : NULL;
    bytes = text ? py.PyUnicode_AsUTF8String(text) : NULL;
    if (!bytes || py.PyBytes_AsStringAndSize(bytes, &p, &n) != 0)
        p = "no reason given";
    snprintf(message, len, "%s: %s", what, p);
    py.PyErr_Clear();
    py.Py_DecRef(bytes);
    py.Py_DecRef(text);
    py.Py_DecRef(type);
    py.Py_DecRef(value);
    py.Py_DecRef(trace);
}

/* Runs the source and keeps what it defines. */
static int define(const char *source, char *message, size_t len)
{
    PyObject *module = py.PyImport_AddModule("_rollout_host"); /* borrowed */
    PyObject *names = module ? py.PyModule_GetDict(module) : NULL; /* borrowed */
    if (!names || py.PyDict_SetItemString(names, "__builtins__", py.PyEval_GetBuiltins()) != 0) {
        say_error(message, len, "module of the host");
        return -1;
    }
    PyObject *code = py.Py_CompileString(source, "<rollout host>", FILE_INPUT);
    PyObject *done = code ? py.PyEval_EvalCode(code, names, names) : NULL;
    if (!done)
        say_error(message, len, "code of the host");
    py.Py_DecRef(code);
    if (!done)
        return -1;
    py.Py_DecRef(done);
    struct {
        const char *name;
        PyObject **to;
    } wanted[] = {{"control", &py.control}, {"bound", &py.bound}, {"as_bytes", &py.as_bytes},
                  {"describe", &py.describe}, {"Cancelled", &py.cancelled}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        *wanted[i].to = py.PyDict_GetItemString(names, wanted[i].name); /* borrowed */
        if (!*wanted[i].to) {
            snprintf(message, len, "code of the host: no %s", wanted[i].name);
            return -1;
        }
        py.Py_IncRef(*wanted[i].to);
    }
    return 0;
}

/* What the interpreter's own thread is told, and what it answers. */
struct opening {
    const char *program, *source;
    char *message;
    size_t message_len;
    int result;
    int done;
    pthread_mutex_t lock;
    pthread_cond_t cond;
};

/*
 * Without a locale, the interpreter's own program reads and writes UTF-8, but an
 * embedded one ASCII: this makes them alike.
 */
static void choose_text(void)
{
    const char *asked = getenv("PYTHONUTF8");
    const char *locale = setlocale(LC_CTYPE, "");
    int bare = !locale || strcmp(locale, "C") == 0 || strcmp(locale, "POSIX") == 0;
    if (py.Py_UTF8Mode)
        *py.Py_UTF8Mode = asked && *asked ? strcmp(asked, "0") != 0 : bare;
}

/*
 * Python remembers the thread that started it as its main one. No thread of Go
 * lives for ever, so it gets this one, which then sleeps.
 */
static void *main_thread(void *arg)
{
    struct opening *o = arg;
    choose_text();
    /* Never freed: Python keeps the pointer. */
    wchar_t *program = py.Py_DecodeLocale(o->program, NULL);
    if (program && py.Py_SetProgramName)
        py.Py_SetProgramName(program);
    py.Py_InitializeEx(0); /* 0: the signal handlers stay Go's */
    int result = define(o->source, o->message, o->message_len);
    py.PyEval_SaveThread();

    pthread_mutex_lock(&o->lock);
    o->result = result;
    o->done = 1;
    pthread_cond_signal(&o->cond);
    pthread_mutex_unlock(&o->lock);
    for (;;)
        pause();
    return NULL;
}

/* Starts main_thread with every signal blocked, so that Go's threads get them, and waits. */
static int start(struct opening *o)
{
    pthread_t thread;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&thread, NULL, main_thread, o);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        snprintf(o->message, o->message_len, "no thread: %s", strerror(failed));
        return -1; /* like a fault of our own code: not tried again */
    }
    pthread_detach(thread);
    pthread_mutex_lock(&o->lock);
    while (!o->done)
        pthread_cond_wait(&o->cond, &o->lock);
    pthread_mutex_unlock(&o->lock);
    return o->result;
}

int rp_open(const char *path, const char *program, const char *source, char *message,
            size_t message_len)
{
    int result = 0;
    pthread_mutex_lock(&open_lock);
    if (!open_path) {
        struct opening o = {
            .program = program,
            .source = source,
            .message = message,
            .message_len = message_len,
            .lock = PTHREAD_MUTEX_INITIALIZER,
            .cond = PTHREAD_COND_INITIALIZER,
        };
        result = load(path, message, message_len);
        if (result == 0) {
            result = start(&o);
            open_path = strdup(path);
            open_fault = result == 0 ? NULL : strdup(message);
        }
    } else if (open_fault) {
        snprintf(message, message_len, "%s", open_fault);
        result = -1;
    }
    pthread_mutex_unlock(&open_lock);
    return result;
}

struct rp_thread {
    PyThreadState *state; /* while the lock is not held */
    unsigned long ident;
    int gil; /* for PyGILState_Release */
    int held;
    int64_t since;     /* when the lock was taken, in ns */
    PyObject *call[2]; /* of the instance: call, batch */
    PyObject *last;    /* what the last run left */
    PyObject *method;  /* the last method's name */
    char *method_text;
    size_t method_len;

    /* Guarded by the interpreter's lock; seq is also read without it. */
    uint64_t seq;    /* the run, or 0 */
    int hit;         /* rp_interrupt has raised in it */
    uint64_t doomed; /* a run that was interrupted before it began, or after it ended */
};

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void take(struct rp_thread *t)
{
    if (t->held)
        return;
    py.PyEval_RestoreThread(t->state);
    t->held = 1;
    t->since = now();
}

void rp_release(struct rp_thread *t)
{
    if (!t->held)
        return;
    t->held = 0;
    t->state = py.PyEval_SaveThread();
}

struct rp_thread *rp_begin(void)
{
    struct rp_thread *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->gil = py.PyGILState_Ensure();
    t->ident = py.PyThread_get_thread_ident();
    t->state = py.PyEval_SaveThread();
    return t;
}

static void drop(PyObject **object)
{
    py.Py_DecRef(*object);
    *object = NULL;
}

void rp_drop(struct rp_thread *t)
{
    take(t);
    drop(&t->last);
    rp_release(t);
}

void rp_end(struct rp_thread *t)
{
    take(t);
    drop(&t->last);
    drop(&t->method);
    drop(&t->call[0]);
    drop(&t->call[1]);
    py.PyErr_Clear();
    py.PyGILState_Release(t->gil);
    free(t->method_text);
    free(t);
}

int rp_bind(struct rp_thread *t)
{
    take(t);
    PyObject *pair = py.PyObject_CallFunctionObjArgs(py.bound, NULL);
    for (int i = 0; pair && i < 2; i++) {
        drop(&t->call[i]);
        t->call[i] = py.PySequence_GetItem(pair, i);
    }
    py.Py_DecRef(pair);
    py.PyErr_Clear();
    rp_release(t);
    return t->call[0] && t->call[1] ? 0 : -1;
}

/* The method's name as an object, borrowed. Callers mostly repeat one name. */
static PyObject *method_object(struct rp_thread *t, const char *text, size_t len)
{
    if (t->method && t->method_len == len && (len == 0 || memcmp(t->method_text, text, len) == 0))
        return t->method;
    drop(&t->method);
    char *copy = realloc(t->method_text, len + 1);
    if (!copy)
        return NULL;
    t->method_text = copy;
    if (len)
        memcpy(copy, text, len);
    t->method_len = len;
    t->method = py.PyUnicode_FromStringAndSize(copy, (Py_ssize_t)len);
    return t->method;
}

/* Sets out to the bytes of object, which becomes t->last. Returns 0 if it is bytes. */
static int keep(struct rp_thread *t, PyObject *object, struct rp_out *out)
{
    char *p = NULL;
    Py_ssize_t n = 0;
    t->last = object;
    if (!object || py.PyBytes_AsStringAndSize(object, &p, &n) != 0)
        return -1;
    out->ptr = (const uint8_t *)p;
    out->len = (size_t)n;
    return 0;
}

/* Turns the exception that is set into the JSON of an error. */
static void keep_error(struct rp_thread *t, struct rp_out *out)
{
    static const char fallback[] = "{\"code\":\"plugin_error\",\"message\":\"the plugin's exception could not be described\"}";
    PyObject *type = NULL, *value = NULL, *trace = NULL, *text = NULL;
    py.PyErr_Fetch(&type, &value, &trace);
    py.PyErr_NormalizeException(&type, &value, &trace);
    if (value && trace)
        py.PyException_SetTraceback(value, trace);
    if (value)
        text = py.PyObject_CallFunctionObjArgs(py.describe, value, NULL);
    out->failed = 1;
    if (keep(t, text, out) != 0) {
        out->ptr = (const uint8_t *)fallback;
        out->len = sizeof fallback - 1;
    }
    py.PyErr_Clear();
    py.Py_DecRef(type);
    py.Py_DecRef(value);
    py.Py_DecRef(trace);
}

/* Calls the callable and keeps what it returns, or its exception. */
static void run(struct rp_thread *t, PyObject *callable, PyObject *method, PyObject *payload,
                uint64_t seq, struct rp_out *out)
{
    static const char left[] = "{\"code\":\"canceled\",\"message\":\"the caller left before the call began\"}";
    PyObject *result = NULL;
    if (t->doomed == seq) {
        out->failed = 1;
        out->ptr = (const uint8_t *)left;
        out->len = sizeof left - 1;
        return;
    }
    __atomic_store_n(&t->seq, seq, __ATOMIC_RELAXED);
    if (callable && method && payload)
        result = py.PyObject_CallFunctionObjArgs(callable, method, payload, NULL);
    __atomic_store_n(&t->seq, 0, __ATOMIC_RELAXED);
    if (t->hit) {
        /* Raised too late to be seen by this run: the next must not see it. */
        py.PyThreadState_SetAsyncExc(t->ident, NULL);
        t->hit = 0;
    }
    if (!result) {
        keep_error(t, out);
        return;
    }
    if (keep(t, result, out) == 0)
        return;
    py.PyErr_Clear();
    PyObject *bytes = py.PyObject_CallFunctionObjArgs(py.as_bytes, result, NULL);
    drop(&t->last);
    if (!bytes || keep(t, bytes, out) != 0) {
        drop(&t->last);
        keep_error(t, out);
    }
}

struct rp_out rp_run(struct rp_thread *t, int which, const char *method, size_t method_len,
                     const uint8_t *payload, size_t payload_len, uint64_t seq, int more)
{
    struct rp_out out;
    memset(&out, 0, sizeof out);
    take(t);
    drop(&t->last);
    PyObject *bytes = py.PyBytes_FromStringAndSize((const char *)payload, (Py_ssize_t)payload_len);
    PyObject *callable = which == RP_CONTROL ? py.control : t->call[which];
    run(t, callable, method_object(t, method, method_len), bytes, seq, &out);
    py.Py_DecRef(bytes);
    if (!more || now() - t->since > HOLD_NS)
        rp_release(t);
    out.held = t->held;
    return out;
}

void rp_interrupt(struct rp_thread *t, uint64_t seq)
{
    int gil = py.PyGILState_Ensure();
    if (t->seq != seq) {
        t->doomed = seq;
    } else if (!t->hit) {
        t->hit = 1;
        py.PyThreadState_SetAsyncExc(t->ident, py.cancelled);
    }
    py.PyGILState_Release(gil);
}

int rp_began(struct rp_thread *t, uint64_t seq)
{
    return __atomic_load_n(&t->seq, __ATOMIC_RELAXED) == seq;
}
