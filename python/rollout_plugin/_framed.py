"""The framed wire: many frames in one read, many answers in one write.

One thread leads: it reads, runs calls one after another, and sends their answers
together. Where the manifest allows several calls at once and calls take long, the
leader hands the lead to another thread before each call, so that the next one
starts at once. A monitor wakes only while calls run; when one call keeps a leader
that has not handed over, the monitor reads in its place (so that a cancel is seen),
or lets another thread lead.
"""

import collections
import ctypes
import json
import os
import select
import socket
import struct
import threading
import time

from . import Cancelled, _adapt

HELLO, CALL, BATCH, RESULT, ERROR, CANCEL, SHUTDOWN = range(1, 8)
MAX_FRAME = (16 << 20) + (4 << 10)
READ_SIZE = 256 << 10
TICK = 0.005  # seconds between two looks of the monitor
QUIET = 40  # ticks without work after which the monitor sleeps
HOLD = 0.001  # seconds that an answer may wait for others
SLOW = 0.001  # seconds of a mean call from which on the lead is handed over before it

_length = struct.Struct(">I").unpack_from
_head = struct.Struct(">BQ").unpack_from
_call = struct.Struct(">IH").unpack_from
_pack = struct.Struct(">IBQ").pack
_set_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exc.argtypes = (ctypes.c_ulong, ctypes.py_object)
_no_exc = ctypes.py_object()  # NULL, which takes a pending exception back


class BrokenFrame(Exception):
    """The host broke the format, or it is not a host."""


class Slot:
    """What one thread is doing. Fields are set by single stores only."""

    __slots__ = ("id", "tid", "hit", "hit_done", "count", "wake")

    def __init__(self):
        self.id = None  # the call that runs
        self.tid = None
        self.hit = None  # the call that is being cancelled
        self.hit_done = None  # the call whose cancelling is over
        self.count = 0  # calls begun
        self.wake = threading.Semaphore(0)


class Server:
    def __init__(self, plugin, sock, concurrency):
        self.plugin = plugin
        self.sock = sock
        self.threads = concurrency
        self.todo = collections.deque()
        self.dropped = set()  # ids cancelled before they began
        self.slots = []
        self.idle = []  # slots of threads that do not lead
        self.leader = None
        self.pace = 0.0  # mean seconds of a call, kept where several run at once
        self.wanted = False  # a leader is busy: whoever comes free first leads
        self.rest = b""
        self.over = False
        self.failure = None
        self.read_lock = threading.Lock()  # held while reading and splitting
        self.send_lock = threading.Lock()  # held while sending
        self.lead_lock = threading.Lock()  # guards leader, wanted, idle and slots
        self.sleeping = False  # the monitor waits for work
        self.bell = threading.Event()
        self.ended = threading.Event()

    # --- start ---

    def hello(self):
        """Answer the host's hello after init and preflight; False when they fail."""
        while not self.todo:
            if not self.fill():
                raise BrokenFrame("the stream ended before hello")
        kind, ident, body = self.todo.popleft()
        hello = json.loads(body) if kind == HELLO else {}
        if hello.get("magic") != "rollout-plugin" or hello.get("version") != 1:
            raise BrokenFrame("the first frame is no hello of version 1")
        try:
            _adapt.start(self.plugin, hello.get("config") or {})
        except BaseException as error:
            self.send([frame(ERROR, 0, _adapt.error_json(error))])
            return False
        self.send([frame(HELLO, 0, b'{"magic":"rollout-plugin","version":1}')])
        return True

    def run(self):
        """Serve until the host says shutdown or goes. Returns the exit status."""
        if not self.hello():
            return 1
        me = self.slot()
        self.leader = me
        threading.Thread(target=self.monitor, name="rollout-monitor", daemon=True).start()
        self.lead(me)
        self.ended.wait()
        if self.failure is not None:
            raise self.failure
        _adapt.stop(self.plugin)
        self.sock.close()
        return 0

    def slot(self):
        s = Slot()
        s.tid = threading.get_ident()
        self.slots.append(s)
        return s

    # --- reading ---

    def fill(self, flags=0):
        """Read once and queue every whole frame; False at the end of the stream."""
        with self.read_lock:
            if self.todo and not flags:  # somebody else has just read
                return True
            data = self.sock.recv(READ_SIZE, flags)
            if not data:
                return False
            if self.rest:
                data = self.rest + data
            pos, end = 0, len(data)
            while end - pos >= 13:
                (n,) = _length(data, pos)
                if n < 9 or n > MAX_FRAME:
                    raise BrokenFrame("a frame has length %d" % n)
                if end - pos - 4 < n:
                    if n > READ_SIZE:
                        data = self.read_rest(data[pos:], n + 4)
                        pos, end = 0, len(data)
                        continue
                    break
                kind, ident = _head(data, pos + 4)
                body = data[pos + 13 : pos + 4 + n]
                pos += 4 + n
                if kind == CANCEL:
                    self.cancel(ident)
                else:
                    self.todo.append((kind, ident, body))
            self.rest = data[pos:] if pos < end else b""
        return True

    def read_rest(self, begun, size):
        """Read the rest of one large frame without copying it again and again."""
        whole = bytearray(size)
        whole[: len(begun)] = begun
        view, at = memoryview(whole), len(begun)
        while at < size:
            try:
                n = self.sock.recv_into(view[at:])
            except BlockingIOError:
                select.select([self.sock], [], [])
                continue
            if n == 0:
                raise BrokenFrame("the stream ended within a frame")
            at += n
        return bytes(whole)

    def cancel(self, ident):
        """Interrupt a call that runs, or drop one that waits."""
        for s in list(self.slots):
            if s.id == ident:
                s.hit = ident
                if s.id == ident:
                    _set_exc(s.tid, Cancelled)
                s.hit_done = ident
                return
        for job in list(self.todo):
            if job[1] == ident:
                self.dropped.add(ident)
                return

    # --- running ---

    def lead(self, me):
        """Read and run calls while this thread leads, then park."""
        out = []
        several = self.threads > 1
        monotonic = time.monotonic
        since = began = monotonic()
        popleft = self.todo.popleft
        while not self.over:
            try:
                job = popleft()
            except IndexError:
                if out:
                    self.send(out)
                    out.clear()
                if self.leader is not me:
                    if not self.park(me):
                        return
                    began = monotonic()
                    continue
                try:
                    if not self.fill():
                        self.end(None)
                except OSError:
                    self.end(None)
                except BaseException as error:
                    self.end(error)
                if self.sleeping:
                    self.bell.set()
                since = began = monotonic()
                continue
            if several and self.pace > SLOW and self.leader is me:
                if out:
                    self.send(out)
                    out.clear()
                self.promote()
            self.work(me, job, out)
            now = monotonic()
            if several:
                self.pace += (now - began - self.pace) / 4
                began = now
                if self.leader is me:
                    self.wanted = False
            if self.leader is not me or now - since > HOLD:
                if out:
                    self.send(out)
                    out.clear()
                since = began = monotonic()
        if out:
            self.send(out)

    def work(self, me, job, out):
        """Run one frame and append its answer."""
        kind, ident, body = job
        if kind == SHUTDOWN:
            self.end(None)
            return
        if self.dropped and ident in self.dropped:
            self.dropped.discard(ident)
            out.append(frame(ERROR, ident, _adapt.error_json(Cancelled())))
            return
        try:
            me.count += 1
            me.id = ident
            try:
                if kind == CALL:
                    _, n = _call(body)
                    result = self.plugin.call(str(body[6 : 6 + n], "utf-8"), body[6 + n :])
                    if type(result) is not bytes or len(result) > _adapt.MAX_RESULT:
                        result = _adapt.as_bytes(result)
                elif kind == BATCH:
                    result = self.batch(body)
                else:
                    raise BrokenFrame("the host sent a frame of type %d" % kind)
                answer = _pack(9 + len(result), RESULT, ident) + result
            except BaseException as error:
                answer = frame(ERROR, ident, _adapt.error_json(error))
            me.id = None
            if me.hit == ident:
                self.settle(me, ident)
        except Cancelled:
            me.id = None
            self.settle(me, ident)
            answer = frame(ERROR, ident, _adapt.error_json(Cancelled()))
        out.append(answer)

    def settle(self, me, ident):
        """Wait until nobody can interrupt this thread for that call any more."""
        while True:
            try:
                while me.hit_done != ident:
                    time.sleep(0)
                _set_exc(me.tid, _no_exc)
                return
            except Cancelled:
                continue

    def batch(self, body):
        _, n = _call(body)
        method = str(body[6 : 6 + n], "utf-8")
        at = 10 + n
        payloads = []
        for _ in range(_length(body, 6 + n)[0]):
            (size,) = _length(body, at)
            payloads.append(body[at + 4 : at + 4 + size])
            at += 4 + size
        parts = [len(payloads).to_bytes(4, "big")]
        room = MAX_FRAME - 13
        results = _adapt.batch(self.plugin, method, payloads)
        for i, result in enumerate(results):
            flag, data = (1, _adapt.error_json(result)) if isinstance(result, BaseException) else (0, result)
            if 5 + len(data) > room - 160 * (len(results) - i - 1):
                flag, data = 1, b'{"code":"too_large","message":"the batch\'s results together exceed one frame"}'
            room -= 5 + len(data)
            parts.append(bytes((flag,)) + len(data).to_bytes(4, "big") + data)
        return b"".join(parts)

    def send(self, frames):
        try:
            with self.send_lock:
                self.sock.sendall(frames[0] if len(frames) == 1 else b"".join(frames))
        except OSError:
            self.end(None)

    def end(self, failure):
        """Stop serving; the first caller's reason stands."""
        with self.lead_lock:
            if self.over:
                return
            self.failure = failure
            self.over = True
            parked, self.idle = self.idle, []
        for s in parked:
            s.wake.release()
        self.ended.set()

    # --- taking turns ---

    def park(self, me):
        """Wait to lead again; False when serving is over."""
        with self.lead_lock:
            if self.over:
                return False
            if self.wanted:
                self.wanted = False
                self.leader = me
                return True
            self.idle.append(me)
        me.wake.acquire()
        return not self.over

    def promote(self):
        """Let another thread lead: one that is free, or one more if their number
        allows it, or else the first that comes free."""
        with self.lead_lock:
            if self.over:
                return
            if self.idle:
                self.leader = self.idle.pop()
                self.leader.wake.release()
            elif len(self.slots) < self.threads:
                s = Slot()
                self.slots.append(s)
                self.leader = s
                threading.Thread(target=self.follow, args=(s,), name="rollout-call", daemon=True).start()
            else:
                self.wanted = True
                if self.sleeping:
                    self.bell.set()

    def follow(self, s):
        s.tid = threading.get_ident()
        self.lead(s)

    def monitor(self):
        quiet = 0
        seen = None
        while not self.over:
            if quiet > QUIET:
                self.bell.clear()
                self.sleeping = True
                while self.leader.id is None and not self.todo and not self.bell.wait(1.0):
                    pass
                self.sleeping = False
                quiet = 0
            lead = self.leader
            stuck = lead.id is not None and (lead, lead.count) == seen
            seen = (lead, lead.count)
            if lead.id is None:
                quiet += 1
                time.sleep(TICK)
                continue
            quiet = 0
            if not stuck:
                time.sleep(TICK)
                continue
            self.stand_in()
            if self.todo and self.leader is lead:
                self.promote()

    def stand_in(self):
        """Read in place of a leader that is kept by one call."""
        if self.threads > 1 and (self.idle or len(self.slots) < self.threads):
            self.promote()
            return
        if not select.select([self.sock], [], [], TICK)[0]:
            return
        try:
            if not self.fill(socket.MSG_DONTWAIT):
                self.gone()
        except BlockingIOError:
            pass
        except OSError:
            self.gone()
        except BaseException as error:
            self.end(error)
        for job in list(self.todo):
            if job[0] == SHUTDOWN:
                self.gone()

    def gone(self):
        """Leave although a call runs: nobody waits for it."""
        os._exit(0)


def frame(kind, ident, body):
    return _pack(9 + len(body), kind, ident) + body


def serve(plugin):
    """Serve on the inherited descriptor until the host is done."""
    fd = int(os.environ.get("ROLLOUT_PLUGIN_FD", "3"))
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(True)
    return Server(plugin, sock, max(1, int(os.environ.get("ROLLOUT_PLUGIN_CONCURRENCY", "1")))).run()
