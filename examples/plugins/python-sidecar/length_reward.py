"""A reward model in a process of its own: is a completion about as long as asked?

The payload is JSON, {"completion": "..."}; the result is the text of a number
between 0 and 1. The same module loads with mode = "python" as well.
"""

import json

from rollout_plugin import PluginError, UnknownMethod


class LengthReward:
    def init(self, config):
        self.target = int(config.get("target_words", 50))

    def preflight(self):
        if self.call("echo", b"ready") != b"ready":
            raise RuntimeError("echo does not answer")

    def call(self, method, payload):
        if method == "score":
            return b"%.3f" % self.score(payload)
        if method == "echo":
            return payload
        raise UnknownMethod(method)

    def call_batch(self, method, payloads):
        """One answer for each payload; an exception in the list fails that one only."""
        answers = []
        for payload in payloads:
            try:
                answers.append(self.call(method, payload))
            except Exception as error:
                answers.append(error)
        return answers

    def score(self, payload):
        try:
            words = len(json.loads(payload)["completion"].split())
        except (ValueError, KeyError, TypeError) as error:
            raise PluginError("the payload is no sample: %s" % error)
        return max(0.0, 1.0 - abs(words - self.target) / self.target)


def create_plugin():
    return LengthReward()
