"""Reward for grade-school maths: 1 when the completion's answer is the reference's.

The answer of a text is the number behind its last "A:", without "$" and ",". A text
without one has no answer, which is never right. The same module runs embedded in the
worker and as a sidecar; the manifests beside it say which.
"""

import json
import re

_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")


def answer(text):
    """Returns the number behind the last "A:" of text, or None."""
    _, mark, tail = text.rpartition("A:")
    if not mark:
        return None
    found = _NUMBER.match(tail.replace("$", "").replace(",", "").lstrip())
    return float(found.group()) if found else None


class Reward:
    """Scores one line: {"reference": text, "completion": text}."""

    def preflight(self):
        got = json.loads(self.call("score", b'{"reference": "A: 1,000", "completion": "A: $1000"}'))
        if got != {"reward": 1.0}:
            raise RuntimeError(f"a right answer scores {got}")

    def call(self, method, payload):
        if method != "score":
            raise ValueError(f"unknown method {method!r}, this plugin has score")
        line = json.loads(payload)
        want = answer(line["reference"])
        right = want is not None and answer(line["completion"]) == want
        return b'{"reward": 1.0}' if right else b'{"reward": 0.0}'


def create_plugin():
    """Makes the plugin; the host calls it once for each instance."""
    return Reward()
