"""Write a rollout plugin in Python, with the standard library only.

A plugin is an object with ``call(method: str, payload: bytes) -> bytes``, made by
a function of no arguments::

    class Reward:
        def call(self, method, payload):
            return payload

    def create_plugin():
        return Reward()

It may also have ``init(config: dict)``, ``preflight()``, ``call_batch(method,
payloads) -> list`` and ``shutdown()``. The same module is loaded into the worker
(``mode = "python"``) or served as a process of its own (``mode = "sidecar"``,
``command = ["python3", "-m", "rollout_plugin", "run", "MODULE[:FACTORY]"]``).
Try it without a worker: ``python3 -m rollout_plugin test MODULE METHOD < payload``.
"""

import os
import sys

__all__ = ["Cancelled", "PluginError", "UnknownMethod", "serve"]
__version__ = "1.0.0"


class PluginError(Exception):
    """A failure that the caller sees as the plugin's own, with this message.

    ``retry`` says when the same call may be tried again: None (never), "now", a
    number of seconds to wait, or a pair (first, last) of seconds between which
    waits double.
    """

    code = "plugin_error"

    def __init__(self, message, retry=None):
        super().__init__(message)
        self.retry = retry


class UnknownMethod(PluginError):
    """The plugin has no method of that name."""

    code = "plugin_contract"

    def __init__(self, method):
        super().__init__("the plugin has no method %r" % (method,))


class Cancelled(BaseException):
    """Raised inside a call that the host does not want any more.

    Let it pass; the call's result is dropped. A call that does not end within a
    second costs its process (sidecar) or its instance (embedded).
    """


def serve(plugin):
    """Serve a plugin object over the wire that the host asked for, and exit.

    ``python3 -m rollout_plugin run`` does this after it has made the object; a
    program of its own calls it as its last statement.
    """
    from . import _serve

    _serve.serve(plugin)


def _keep_stdout():
    """In a sidecar, keep the real stdout for the handshake and send whatever is
    printed to stderr, where it becomes log lines."""
    if "ROLLOUT_PLUGIN_PROTOCOL" not in os.environ or hasattr(sys, "_rollout_embedded"):
        return None
    saved = os.dup(1) if os.environ["ROLLOUT_PLUGIN_PROTOCOL"] == "grpc" else None
    os.dup2(2, 1)
    return saved


_stdout_fd = _keep_stdout()
