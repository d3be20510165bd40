"""The gRPC wire: go-plugin's handshake and rollout.plugin.v1.Plugin.

Needs the package grpcio and nothing else: the few messages are read and written
here, so no generated code and no protobuf package is asked for.
"""

import concurrent.futures
import json
import os
import sys
import threading

import rollout_plugin

from . import _adapt

try:
    import grpc
except ImportError:
    sys.exit(
        "rollout_plugin: protocol grpc needs the package grpcio for %s; install it, "
        'or use protocol = "framed", which needs nothing and is faster' % sys.executable
    )

COOKIE = ("ROLLOUT_PLUGIN_COOKIE", "rollout.plugin.v1")
MAX_MESSAGE = (16 << 20) + (64 << 10)
KINDS = {"now": 1, "after": 2, "backoff": 3}


# --- protobuf, as much of it as the service uses ---


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, data):
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def number_field(number, value):
    return varint(number << 3) + varint(value) if value else b""


def fields(data):
    """Yield (number, value) of every field; length-delimited ones as bytes."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind == 2:
            size, at = read_varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("a message has a field of wire type %d" % kind)
        yield key >> 3, value


def read_varint(data, at):
    value = shift = 0
    while True:
        b = data[at]
        at += 1
        value |= (b & 0x7F) << shift
        if b < 0x80:
            return value, at
        shift += 7


ONE_BYTE = [bytes((n,)) for n in range(0x80)]


def read_call(request):
    """Method and payload of a CallRequest."""
    # As every library writes them: in order, the method's length in one byte.
    if len(request) > 2 and request[0] == 0x0A and request[1] < 0x80:
        at = request[1] + 2
        if request[at : at + 1] == b"\x12":
            size, start = read_varint(request, at + 1)
            if start + size == len(request):
                return str(request[2:at], "utf-8"), request[start:]
    parts = dict(fields(request))
    return str(parts.get(1, b""), "utf-8"), bytes(parts.get(2, b""))


def write_result(result):
    """A CallResponse."""
    if type(result) is bytes and len(result) < 0x80:
        return b"\x0a" + ONE_BYTE[len(result)] + result
    return field(1, _adapt.as_bytes(result))


def plugin_error(error):
    """A PluginError message."""
    code, message, retry = _adapt.describe(error)
    out = field(1, code.encode()) + field(2, message[:2048].encode("utf-8", "backslashreplace"))
    if retry is not None:
        out += field(
            3,
            number_field(1, KINDS[retry["kind"]])
            + number_field(2, retry.get("after_ms", 0))
            + number_field(3, retry.get("base_ms", 0))
            + number_field(4, retry.get("max_ms", 0)),
        )
    return out


def abort(context, error):
    """End an RPC with the plugin's error as its status and detail."""
    code, message, _ = _adapt.describe(error)
    message = message[:2048]
    if code == "plugin_contract":
        context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
    detail = field(1, b"type.googleapis.com/rollout.plugin.v1.PluginError") + field(2, plugin_error(error))
    status = number_field(1, 2) + field(2, message.encode("utf-8", "backslashreplace")) + field(3, detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status),))
    context.abort(grpc.StatusCode.UNKNOWN, message.encode("ascii", "backslashreplace").decode())


class Service:
    def __init__(self, plugin):
        self.plugin = plugin
        self.config = {}
        self.over = threading.Event()

    def guarded(self, work):
        def handler(request, context):
            try:
                return work(request)
            except BaseException as error:
                abort(context, error)

        return handler

    def init(self, request):
        config = dict(fields(request)).get(1, b"{}")
        init = getattr(self.plugin, "init", None)
        if init is not None:
            init(json.loads(config or b"{}"))
        return b""

    def preflight(self, request):
        preflight = getattr(self.plugin, "preflight", None)
        if preflight is not None:
            preflight()
        return b""

    def call(self, request, context):
        try:
            method, payload = read_call(request)
            return write_result(self.plugin.call(method, payload))
        except BaseException as error:
            abort(context, error)

    def call_batch(self, request):
        method, payloads = "", []
        for number, value in fields(request):
            if number == 1:
                method = str(value, "utf-8")
            elif number == 2:
                payloads.append(bytes(value))
        out, room = [], MAX_MESSAGE - (512 << 10)
        for result in _adapt.batch(self.plugin, method, payloads):
            if not isinstance(result, BaseException) and len(result) > room:
                result = rollout_plugin.PluginError("the batch's results together exceed one message")
                result.code = "too_large"
            if isinstance(result, BaseException):
                out.append(field(1, field(2, plugin_error(result))))
            else:
                room -= len(result)
                out.append(field(1, field(1, result)))
        return b"".join(out)

    def shutdown(self, request):
        _adapt.stop(self.plugin)
        return b""

    def controller_shutdown(self, request, context):
        self.over.set()
        return b""

    def health(self, request, context):
        return number_field(1, 1)  # SERVING

    def handlers(self):
        def unary(work):
            return grpc.unary_unary_rpc_method_handler(work)

        methods = {
            "rollout.plugin.v1.Plugin": {
                "Init": unary(self.guarded(self.init)),
                "Preflight": unary(self.guarded(self.preflight)),
                "Call": unary(self.call),
                "CallBatch": unary(self.guarded(self.call_batch)),
                "Shutdown": unary(self.guarded(self.shutdown)),
            },
            "plugin.GRPCController": {"Shutdown": unary(self.controller_shutdown)},
            "grpc.health.v1.Health": {"Check": unary(self.health)},
        }
        return [grpc.method_handlers_generic_handler(name, table) for name, table in methods.items()]


def serve(plugin):
    """Serve until the host's shutdown."""
    if os.environ.get(COOKIE[0]) != COOKIE[1]:
        sys.exit("rollout_plugin: this process was not started by a rollout host")
    workers = max(1, int(os.environ.get("ROLLOUT_PLUGIN_CONCURRENCY", "1")))
    service = Service(plugin)
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(workers),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers(service.handlers())
    path = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "s")
    server.add_insecure_port("unix:" + path)
    server.start()
    os.write(rollout_plugin._stdout_fd, ("1|1|unix|%s|grpc\n" % path).encode())
    service.over.wait()
    server.stop(0.2).wait()
    return 0
