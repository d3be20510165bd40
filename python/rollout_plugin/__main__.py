"""python3 -m rollout_plugin run|test MODULE[:FACTORY] ..."""

import json
import sys
import time
import traceback

from . import _adapt, _serve


class Unloadable:
    """Stands for a plugin whose module cannot be loaded, so that the host hears
    the reason in answer to its hello."""

    def __init__(self, error):
        self.error = error

    def init(self, config):
        raise self.error

    def call(self, method, payload):
        raise self.error


def run(spec):
    try:
        plugin = _adapt.load(spec)
    except BaseException as error:
        traceback.print_exc()
        plugin = Unloadable(error)
    _serve.serve(plugin)


def test(args):
    began = time.perf_counter()
    try:
        plugin = _adapt.load(args.plugin)
        _adapt.start(plugin, json.loads(args.config))
    except BaseException as error:
        sys.exit("not ready: %s" % _adapt.describe(error)[1])
    print("ready after %.1f ms" % ((time.perf_counter() - began) * 1e3), file=sys.stderr)
    status = 0
    if args.method is not None:
        payload = sys.stdin.buffer.read()
        began = time.perf_counter()
        result = _adapt.one(plugin, args.method, payload)
        took = (time.perf_counter() - began) * 1e3
        if isinstance(result, BaseException):
            print("%s failed after %.1f ms: %s" % ((args.method, took, _adapt.describe(result)[1])), file=sys.stderr)
            status = 1
        else:
            sys.stdout.buffer.write(result)
            if sys.stdout.isatty() and not result.endswith(b"\n"):
                sys.stdout.buffer.write(b"\n")
            sys.stdout.buffer.flush()
            print("%s took %.3f ms" % (args.method, took), file=sys.stderr)
    _adapt.stop(plugin)
    _serve.leave(status)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "run" and not sys.argv[2].startswith("-"):
        run(sys.argv[2])  # the way a host starts it: no time for a parser
    import argparse

    parser = argparse.ArgumentParser(prog="python3 -m rollout_plugin", description="Serve or try a rollout plugin.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("run", help="serve a plugin to the host that started this process")
    serve.add_argument("plugin", metavar="MODULE[:FACTORY]")
    serve.set_defaults(do=lambda args: run(args.plugin))
    trial = commands.add_parser("test", help="start a plugin here and call it once; the payload is read from stdin")
    trial.add_argument("plugin", metavar="MODULE[:FACTORY]")
    trial.add_argument("method", metavar="METHOD", nargs="?")
    trial.add_argument("--config", metavar="JSON", default="{}", help="the config given to init")
    trial.set_defaults(do=test)
    args = parser.parse_args()
    args.do(args)


main()
