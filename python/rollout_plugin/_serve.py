"""Choosing the wire and ending the process."""

import atexit
import os
import sys
import traceback


def serve(plugin):
    """Serve on the wire named by the environment; never returns."""
    protocol = os.environ.get("ROLLOUT_PLUGIN_PROTOCOL")
    if protocol == "framed":
        from . import _framed as wire
    elif protocol == "grpc":
        from . import _grpc as wire
    else:
        sys.exit(
            "rollout_plugin: not started by a rollout host (ROLLOUT_PLUGIN_PROTOCOL is %r); "
            "to try a plugin, use python3 -m rollout_plugin test MODULE METHOD" % protocol
        )
    status = 1
    try:
        status = wire.serve(plugin)
    except BaseException:
        traceback.print_exc()
    leave(status)


def leave(status):
    """End the process now, whatever threads the plugin has left running."""
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
