"""A plugin that does what its line says, good or bad."""

import json
import os
import threading


class Naughty:
    def call(self, method, payload):
        what = json.loads(payload)["do"]
        if what == "die":
            os._exit(13)
        if what == "hang":
            threading.Event().wait()
        if what == "raise":
            raise ValueError("this line cannot be scored")
        if what == "nothing":
            return b""
        if what.isdigit():
            return b'"' + b"x" * (int(what) * 1024 * 1024) + b'"'
        return json.dumps({"did": what}).encode()


def create_plugin():
    return Naughty()
