"""Loading a plugin object and calling it by the rules."""

import importlib
import json
import traceback

from . import Cancelled, PluginError

MAX_RESULT = 16 << 20
MAX_TRACE = 8 << 10


def load(spec):
    """Import MODULE[:FACTORY] and return the object that the factory makes."""
    module, _, factory = spec.partition(":")
    make = getattr(importlib.import_module(module), factory or "create_plugin", None)
    if make is None:
        raise PluginError("module %s has no function %s" % (module, factory or "create_plugin"))
    plugin = make()
    if not callable(getattr(plugin, "call", None)):
        raise PluginError("%s() of module %s returned %r, which has no method call" % (factory or "create_plugin", module, plugin))
    return plugin


def start(plugin, config):
    """Run the plugin's init and preflight, where it has them."""
    init = getattr(plugin, "init", None)
    if init is not None:
        init(config)
    preflight = getattr(plugin, "preflight", None)
    if preflight is not None:
        preflight()


def stop(plugin):
    """Run the plugin's shutdown, where it has one."""
    shutdown = getattr(plugin, "shutdown", None)
    if shutdown is not None:
        shutdown()


def as_bytes(result):
    """Return a result as bytes, or raise for what is none."""
    if type(result) is not bytes:
        if not isinstance(result, (bytes, bytearray, memoryview)):
            raise PluginError("call returned %s, not bytes" % type(result).__name__)
        result = bytes(result)
    if len(result) > MAX_RESULT:
        error = PluginError("the result has %d bytes, at most %d are allowed" % (len(result), MAX_RESULT))
        error.code = "too_large"
        raise error
    return result


def batch(plugin, method, payloads):
    """Return a list of bytes and exceptions, one for each payload."""
    many = getattr(plugin, "call_batch", None)
    if many is None:
        return [one(plugin, method, p) for p in payloads]
    results = list(many(method, payloads))
    if len(results) != len(payloads):
        raise PluginError("call_batch returned %d results for %d payloads" % (len(results), len(payloads)))
    return [checked(r) for r in results]


def one(plugin, method, payload):
    """Call once; return bytes or the exception."""
    try:
        return as_bytes(plugin.call(method, payload))
    except Cancelled:
        raise
    except BaseException as error:
        return error


def checked(result):
    if isinstance(result, BaseException):
        return result
    try:
        return as_bytes(result)
    except PluginError as error:
        return error


def describe(error):
    """Return code, message and retry of an exception, for the wire."""
    if isinstance(error, PluginError):
        return error.code, str(error) or "the plugin gave no message", _retry(error.retry)
    if isinstance(error, Cancelled):
        return "canceled", "the call was cancelled", None
    first = traceback.format_exception_only(type(error), error)[-1].strip()
    trace = "".join(traceback.format_tb(error.__traceback__))
    if len(trace) > MAX_TRACE:
        trace = "..." + trace[-MAX_TRACE:]
    return "plugin_error", (first + "\n" + trace).strip(), None


def _retry(retry):
    if retry is None:
        return None
    if retry == "now":
        return {"kind": "now"}
    if isinstance(retry, (int, float)):
        return {"kind": "after", "after_ms": max(0, int(retry * 1000))}
    first, last = retry
    return {"kind": "backoff", "base_ms": max(1, int(first * 1000)), "max_ms": max(1, int(last * 1000))}


def error_json(error):
    """Return the JSON of an error frame."""
    code, message, retry = describe(error)
    body = {"code": code, "message": message[: 60 << 10]}
    if retry is not None:
        body["retry"] = retry
    return json.dumps(body).encode("utf-8", "backslashreplace")
