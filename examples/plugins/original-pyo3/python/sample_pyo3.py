"""A plugin as written for the Rust original: call(str, bytes) -> bytes, found through PYTHONPATH."""


class SamplePlugin:
    def call(self, method: str, payload: bytes) -> bytes:
        if method == "echo":
            return payload
        if method == "greet":
            return b"hello, " + payload
        raise ValueError(f"unknown method {method}")


def create_plugin():
    return SamplePlugin()
