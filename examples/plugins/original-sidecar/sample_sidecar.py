"""A sidecar for the wire of the Rust original: JSON with a length before it.

It listens on the socket named by its last argument, takes one connection, and
answers Init, echo and Shutdown.
"""

import json
import os
import socket
import struct
import sys


def answer(method, payload):
    if method == "Init":
        return {"version": "0.1.0"}
    if method == "echo":
        return {"payload": payload}
    if method == "Shutdown":
        return {"ack": True}
    return {"error": "unknown method: " + method}


def main():
    path = sys.argv[-1]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(1)
    stream = listener.accept()[0].makefile("rwb")
    while len(head := stream.read(4)) == 4:
        request = json.loads(stream.read(struct.unpack(">I", head)[0]))
        reply = json.dumps(answer(request["method"], request["payload"])).encode()
        stream.write(struct.pack(">I", len(reply)) + reply)
        stream.flush()
        if request["method"] == "Shutdown":
            return


if __name__ == "__main__":
    main()
