# Runs inside the embedded interpreter, between the shim and the plugins. The host
# puts "sdk_dir = ..." and "executable = ..." in front.
#
# The shim takes control, bound, as_bytes, describe and Cancelled from here. Each
# instance of a plugin has a thread, and control and bound speak of the instance of
# the thread that calls them.

import sys

sys._rollout_embedded = True
sys.executable = executable
sys.path.insert(0, sdk_dir)

import builtins
import importlib.machinery
import importlib.util
import io
import json
import os
import struct
import threading

from rollout_plugin import Cancelled, PluginError, _adapt

instances = {}  # thread ident -> Instance
busy = threading.Condition()  # guards the two below; no code of a plugin runs under it
busy_names = set()  # top-level names of the imports that run
code_sets = []  # every CodeSet in sys.modules, the newest last


class CodeSet:
    """The modules of one version of one plugin, imported once for all its instances."""

    def __init__(self, spec):
        self.plugin = spec["plugin"]
        self.digest = spec["digest"]
        self.dir = os.path.realpath(spec["dir"])
        self.root = spec["module"].partition(".")[0]
        self.module = None
        self.names = set()  # top-level names that are the plugin's
        self.own = {}  # name -> module, of those that the import brought
        self.users = 0


class Instance:
    """One plugin object and the thread that owns it."""

    def __init__(self, spec):
        self.log_fd = spec["log_fd"]
        self.dir = os.path.realpath(spec["dir"])
        self.root = spec["module"].partition(".")[0]
        self.code = None
        self.plugin = None


# --- finding a plugin's own modules ---


class SourceLoader(importlib.machinery.SourceFileLoader):
    """Reads the source each time: a cached .pyc is matched by whole seconds and
    size, so that it can be older than a file that was just changed."""

    def path_stats(self, path):
        raise OSError("no bytecode for modules that may be reloaded")


class Finder:
    """Looks in the directory of the calling thread's plugin before sys.path."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        me = instances.get(threading.get_ident())
        if me is None:
            return None
        top = top_of(name)
        if path is None:
            path = [me.dir] + sys.path if top == me.root else [me.dir]
        elif top != me.root and not any(below(p, me.dir) for p in path):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            if top == me.root or not third_party(spec.origin):
                spec.loader = SourceLoader(spec.loader.name, spec.loader.path)
        return spec


def below(path, directory):
    path = os.path.realpath(path)
    return path == directory or path.startswith(directory + os.sep)


def third_party(path):
    return "site-packages" in path.split(os.sep) or "dist-packages" in path.split(os.sep)


def own_names(code):
    """The top-level names that the plugin's directory holds, and its entry module."""
    names = {code.root}
    try:
        entries = list(os.scandir(code.dir))
    except OSError:
        entries = []
    for entry in entries:
        if entry.name.endswith(".py"):
            names.add(entry.name[:-3])
        elif entry.is_dir() and any(n.endswith(".py") for n in os.listdir(entry)):
            names.add(entry.name)
    return {n for n in names if n.isidentifier()} - sys.stdlib_module_names


def top_of(name):
    return name.partition(".")[0]


def origin(module):
    """The file that a module was read from, or None."""
    spec = getattr(module, "__spec__", None)
    return spec.origin if getattr(spec, "has_location", False) else None


def belongs(code, name, module):
    """Whether a module is the plugin's: part of its entry package, or read from its
    directory."""
    places = list(getattr(module, "__path__", None) or [])
    places.append(origin(module) or "")
    if top_of(name) == code.root:
        return True
    return any(p and below(p, code.dir) and not third_party(p) for p in places)


def modules_of(names):
    """The imported modules below these names, without packages that hold machine
    code: those cannot be imported twice."""
    found = {n: m for n, m in list(sys.modules.items()) if top_of(n) in names}
    stuck = {top_of(n) for n, m in found.items() if not (origin(m) or ".py").endswith(".py")}
    return {n: m for n, m in found.items() if top_of(n) not in stuck}


def import_code(code, spec):
    """Import the plugin's modules anew. Afterwards sys.modules names them, except
    where another plugin or library had the name before. On failure sys.modules is
    as before."""
    code.names = names = own_names(code)
    with busy:
        while busy_names & names:
            busy.wait()
        busy_names.update(names)
    try:
        before = modules_of(names)
        for name in before:
            del sys.modules[name]
        importlib.invalidate_caches()
        try:
            code.module = importlib.import_module(spec["module"])
        finally:
            code.own = {n: m for n, m in modules_of(names).items() if belongs(code, n, m)}
            with busy:
                settle(code, before)
    finally:
        with busy:
            busy_names.difference_update(names)
            busy.notify_all()
            drop_unused()


def settle(code, before):
    """Decide whose modules sys.modules names. The caller holds busy."""
    if code.module is not None:
        code.users = 1
        code_sets.append(code)
        others = [c for c in code_sets if c.plugin != code.plugin]
        taken = {id(m) for c in others for m in c.own.values()}
        before = {n: m for n, m in before.items() if id(m) in taken or not belongs(code, n, m)}
    tops = {top_of(n) for n in before}
    for name in code.own:
        if code.module is None or top_of(name) in tops:
            sys.modules.pop(name, None)
    sys.modules.update(before)


def drop_unused():
    """Forget the modules that no instance uses any more, unless an import of the
    same names runs: then its end does it. An older version that is still used gets
    its names back. The caller holds busy."""
    for code in [c for c in code_sets if c.users == 0]:
        if busy_names & code.names:
            continue
        code_sets.remove(code)
        used = {id(m) for c in code_sets for m in c.own.values()}
        for name, module in modules_of(code.names).items():
            if id(module) not in used and belongs(code, name, module):
                del sys.modules[name]
        for other in reversed(code_sets):
            if other.plugin == code.plugin:
                for name, module in other.own.items():
                    sys.modules.setdefault(name, module)


def drop_dir(directory):
    """Take a directory off sys.path that no instance needs any more."""
    if directory in sys.path and not any(i.dir == directory for i in instances.values()):
        sys.path.remove(directory)


# --- the life of an instance ---


def use_code(spec):
    """The imported modules of a plugin's digest, with one user more."""
    with busy:
        for code in reversed(code_sets):
            if code.plugin == spec["plugin"] and code.digest == spec["digest"] and not spec["fresh"]:
                code.users += 1
                return code
    code = CodeSet(spec)
    import_code(code, spec)
    return code


def load(me, spec):
    for place in spec.get("site") or []:
        if place not in sys.path and os.path.isdir(place):
            import site

            site.addsitedir(place)
    if me.dir not in sys.path:
        sys.path.insert(0, me.dir)
    me.code = code = use_code(spec)
    module = code.module
    make = getattr(module, spec["factory"], None)
    if make is None:
        raise PluginError("module %s has no function %s" % (spec["module"], spec["factory"]))
    me.plugin = make()
    if not callable(getattr(me.plugin, "call", None)):
        raise PluginError("%s() of module %s returned %r, which has no method call" % (spec["factory"], spec["module"], me.plugin))


def control(op, payload):
    ident = threading.get_ident()
    if op == "load":
        spec = json.loads(payload)
        me = instances[ident] = Instance(spec)
        load(me, spec)
    elif op == "start":
        _adapt.start(instances[ident].plugin, json.loads(payload))
    elif op == "stop":
        _adapt.stop(instances[ident].plugin)
    elif op == "drop":
        me = instances.get(ident)
        if me is not None:
            sys.stdout.finish(ident)
            sys.stderr.finish(ident)
            del instances[ident]
            me.plugin = None
            if me.code is not None:
                with busy:
                    me.code.users -= 1
                    drop_unused()
            drop_dir(me.dir)
    else:
        raise ValueError("no operation %r" % op)
    return b""


def bound():
    plugin = instances[threading.get_ident()].plugin
    return plugin.call, lambda method, packed: batch(plugin, method, packed)


def batch(plugin, method, packed):
    """Unpack u32 count, count x (u32 length + payload); answer like a framed batch."""
    (count,) = struct.unpack_from(">I", packed)
    at, payloads = 4, []
    for _ in range(count):
        (n,) = struct.unpack_from(">I", packed, at)
        payloads.append(packed[at + 4 : at + 4 + n])
        at += 4 + n
    out = [struct.pack(">I", count)]
    for result in _adapt.batch(plugin, method, payloads):
        failed = isinstance(result, BaseException)
        data = _adapt.error_json(result) if failed else result
        out.append(struct.pack(">BI", failed, len(data)))
        out.append(data)
    return b"".join(out)


as_bytes = _adapt.as_bytes
describe = _adapt.error_json


# --- what plugins print ---

LINE_MAX = 3000  # bytes of one record; a pipe takes up to 4096 in one piece


class Lines(io.TextIOBase):
    """Stands for stdout and stderr: whole lines go to the log of the plugin whose
    thread or module wrote them, and never to the worker's own descriptors."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, tag):
        super().__init__()
        self.tag = tag
        self.parts = {}  # thread ident -> text of a line that is not yet whole
        self.buffer = Bytes(self)

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        return 2  # for subprocess: the worker's stdout carries events

    def write(self, text):
        ident = threading.get_ident()
        text = self.parts.pop(ident, "") + text
        *lines, rest = text.split("\n")
        while len(rest) > LINE_MAX:
            lines.append(rest[:LINE_MAX])
            rest = rest[LINE_MAX:]
        if rest:
            self.parts[ident] = rest
        for line in lines:
            self.send(ident, line)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def finish(self, ident):
        rest = self.parts.pop(ident, "")
        if rest:
            self.send(ident, rest)

    def send(self, ident, line):
        me = instances.get(ident) or by_frame() or next(iter(list(instances.values())), None)
        if me is None:
            return
        data = line.encode("utf-8", "backslashreplace").replace(b"\0", b"\\0")
        for at in range(0, max(len(data), 1), LINE_MAX):
            try:
                os.write(me.log_fd, self.tag + data[at : at + LINE_MAX] + b"\n")
            except OSError:
                return  # the host has stopped listening


class Bytes(io.RawIOBase):
    """The buffer of Lines, for those who write bytes."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def writable(self):
        return True

    def write(self, data):
        self.lines.write(bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)


def by_frame():
    """The instance whose module is on the stack of a thread that the plugin made."""
    frame = sys._getframe()
    while frame is not None:
        for me in list(instances.values()):
            if me.code is not None and any(frame.f_globals is m.__dict__ for m in me.code.own.values()):
                return me
        frame = frame.f_back
    return None


sys.stdout = sys.__stdout__ = Lines(b"o")
sys.stderr = sys.__stderr__ = Lines(b"e")
sys.stdin = sys.__stdin__ = open(os.devnull)
sys.meta_path.insert(0, Finder)
