"""A plugin with every habit, good and bad, that the tests need."""

import os
import sys
import threading
import time

import helper

calls = 0


class Plugin:
    def __init__(self):
        self.config = None
        self.flighted = False

    def init(self, config):
        self.config = config
        if config.get("refuse"):
            raise ValueError("refused by config")
        while config.get("hang"):
            time.sleep(0.01)

    def preflight(self):
        if self.config.get("unfit"):
            raise RuntimeError("unfit by config")
        self.flighted = True

    def call(self, method, payload):
        global calls
        calls += 1
        if method == "echo":
            return payload
        return getattr(self, "do_" + method)(payload)

    def do_ready(self, payload):
        return b"%d" % self.flighted

    def do_config(self, payload):
        return repr(sorted(self.config.items())).encode()

    def do_helper(self, payload):
        return helper.name().encode()

    def do_calls(self, payload):
        return b"%d" % calls

    def do_about(self, payload):
        return "\n".join([sys.executable, sys.prefix, "%d.%d" % sys.version_info[:2], str(sys.path[0])]).encode()

    def do_encoding(self, payload):
        with open(os.devnull) as f:
            return ("%s %s" % (f.encoding, sys.getfilesystemencoding())).lower().encode()

    def do_hog(self, payload):
        """Writes a byte to a descriptor, then sleeps in C and keeps the interpreter's lock."""
        import ctypes

        fd, microseconds = payload.split()
        usleep = ctypes.PyDLL(None).usleep
        os.write(int(fd), b"x")
        usleep(int(microseconds))
        return b"hogged"

    def do_bytearray(self, payload):
        return bytearray(payload)

    def do_text(self, payload):
        return "text"

    def do_none(self, payload):
        return None

    def do_huge(self, payload):
        return bytes((16 << 20) + 1)

    def do_raise(self, payload):
        raise KeyError("as asked")

    def do_exit(self, payload):
        sys.exit(3)

    def do_plugin_error(self, payload):
        import rollout_plugin

        raise rollout_plugin.PluginError("later", retry=1.5)

    def do_bad_str(self, payload):
        class Bad(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        raise Bad()

    def do_recurse(self, payload):
        return self.do_recurse(payload)

    def do_sleep(self, payload):
        time.sleep(float(payload))
        return b"slept"

    def do_loop(self, payload):
        while True:
            pass

    def do_stubborn(self, payload):
        """Goes on whatever is raised, until the descriptor's other end is closed."""
        while True:
            try:
                while os.read(int(payload), 1):
                    pass
                return b"woke"
            except BaseException:
                continue

    def do_wait(self, payload):
        os.read(int(payload), 1)
        return b"woke"

    def do_print(self, payload):
        print(payload.decode())
        print("to stderr", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\n")
        print("not whole", end="")
        return b""

    def do_thread_print(self, payload):
        t = threading.Thread(target=lambda: print("from a thread"))
        t.start()
        t.join()
        return b""

    def do_threads(self, payload):
        done = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(int(payload))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return b"%d" % len(done)

    def do_lazy(self, payload):
        import lazy

        return lazy.NAME.encode()

    def call_batch(self, method, payloads):
        if method == "short":
            return []
        if method == "raise":
            raise RuntimeError("whole batch")
        return [ValueError("bad item") if p == b"bad" else p for p in payloads]

    def shutdown(self):
        marker = self.config.get("marker")
        if marker:
            with open(marker, "a") as f:
                f.write("shutdown\n")


class Single:
    """A plugin that has no more than call."""

    def call(self, method, payload):
        if payload == b"bad":
            raise ValueError("bad item")
        return payload


def create_plugin():
    return Plugin()


def create_single():
    return Single()


def create_nothing():
    return object()
