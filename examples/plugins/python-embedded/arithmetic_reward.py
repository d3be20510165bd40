"""A reward model that runs inside the worker: does a completion end in the right number?

The payload is JSON, {"completion": "...", "answer": "..."}; the result is the text
of a number. No import of the SDK is needed.
"""

import json
import re

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class ArithmeticReward:
    def init(self, config):
        self.right = float(config.get("right", 1.0))
        self.wrong = float(config.get("wrong", 0.0))

    def preflight(self):
        if self.call("echo", b"ready") != b"ready":
            raise RuntimeError("echo does not answer")

    def call(self, method, payload):
        if method == "score":
            return b"%g" % self.score(json.loads(payload))
        if method == "echo":
            return payload
        raise ValueError("methods are score and echo, not %r" % method)

    def call_batch(self, method, payloads):
        """One answer for each payload; an exception in the list fails that one only."""
        return [self.attempt(method, p) for p in payloads]

    def attempt(self, method, payload):
        try:
            return self.call(method, payload)
        except Exception as error:
            return error

    def score(self, sample):
        numbers = NUMBER.findall(sample["completion"])
        last = numbers[-1].replace(",", "") if numbers else None
        return self.right if last == str(sample["answer"]) else self.wrong


def create_plugin():
    return ArithmeticReward()
