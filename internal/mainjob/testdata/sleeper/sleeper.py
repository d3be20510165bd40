"""A plugin that takes 10 ms for each line, as one that waits for a model does."""

import time


class Sleeper:
    def call(self, method, payload):
        time.sleep(0.010)
        return payload


def create_plugin():
    return Sleeper()
