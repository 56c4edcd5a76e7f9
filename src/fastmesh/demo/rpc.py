"""The demo's gRPC application, a process of its own: an ordinary grpcio server that knows nothing of a mesh.

    python -m fastmesh.demo.rpc --port P --version a

Messages are bytes and methods have generic handlers, so that no compiler of protocol files is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SERVICE = "demo.Ratings"


def grpc() -> Any:
    """grpcio, which fastmesh itself does not need: ImportError where it is not installed."""
    return importlib.import_module("grpc")


class Ratings:
    def __init__(self, version: str) -> None:
        self.version = version

    def rate(self, request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        return json.dumps({"version": self.version, "seconds_left": left}).encode()

    def history(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield from (b"4", b"5", b"3")

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc().StatusCode.NOT_FOUND, "no such book")
        return b""

    def wait(self, request: bytes, context: Any) -> bytes:
        """Until the caller has given up."""
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(10)
        return b""


def main() -> None:
    parser = argparse.ArgumentParser("fastmesh.demo.rpc")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", default="a")
    args = parser.parse_args()
    rpc, app = grpc(), Ratings(args.version)
    server = rpc.server(ThreadPoolExecutor(16))
    handlers = {
        "Rate": rpc.unary_unary_rpc_method_handler(app.rate),
        "History": rpc.unary_stream_rpc_method_handler(app.history),
        "Fail": rpc.unary_unary_rpc_method_handler(app.fail),
        "Wait": rpc.unary_unary_rpc_method_handler(app.wait),
    }
    server.add_generic_rpc_handlers((rpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
