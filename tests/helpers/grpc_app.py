"""A gRPC application without generated code: messages are bytes, and the method says what happens.

Echo    unary: the request. Metadata `echo-*` comes back in the answer's head, `trail-*` in its trailers
Facts   unary: JSON of what arrived: app, metadata, seconds to the deadline
Count   server streaming: the request `N SIZE` gets N messages of SIZE bytes
Sum     client streaming: JSON of how many messages and bytes came
Early   client streaming: the answer after the first message
Chat    both ways: each message comes back at once
Hold    unary: the request is a tag; no answer until `ledger.release(tag)`
Drip    server streaming: a message at once, the next after `ledger.release(tag)`
Fail    server streaming: the request is JSON of a `Failure`

The ledger tells what began, what the other side gave up and how often each tag came. Servers may share one.
`python -m helpers.grpc_app PORT NAME` is the same as a process; it writes a line for each Hold that began.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

SERVICE = "mesh.Test"
STATUS_DETAILS = "grpc-status-details-bin"
THREADS = 400  # each call in progress has one; the largest test holds 200


@dataclass
class Failure:
    """What Fail does: `times` calls of the tag fail with this status, after `after` messages; then none."""

    code: int = grpc.StatusCode.UNAVAILABLE.value[0]
    details: str = "told to"
    times: int = 1
    after: int = 0
    pause: float = 0.0  # seconds before the first thing is said
    tag: str = ""
    trailers: dict[str, str] = field(default_factory=dict)

    @property
    def request(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Ledger:
    """What happened, by tag."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()  # the call ended before it was answered
        self.remaining: defaultdict[str, list[float | None]] = defaultdict(list)  # seconds to the deadline
        self._gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._lock = threading.Lock()

    def release(self, tag: str) -> None:
        self.gate(tag).set()

    def gate(self, tag: str) -> threading.Event:
        with self._lock:
            return self._gates[tag]

    def begin(self, tag: str, context: grpc.ServicerContext) -> int:
        """How many calls of the tag have come, this one included."""
        with self._lock:
            self.begun[tag] += 1
            self.remaining[tag].append(context.time_remaining())
            return self.begun[tag]

    def watch(self, tag: str, context: grpc.ServicerContext) -> Callable[[], None]:
        """Counts a call that ends before what this gives is called."""
        answered = threading.Event()

        def ended() -> None:
            if not answered.is_set():
                with self._lock:
                    self.given_up[tag] += 1

        if not context.add_callback(ended):
            ended()
        return answered.set


class GrpcApp:
    """A server of SERVICE on a port of 127.0.0.1, without TLS."""

    def __init__(
        self, name: str, ledger: Ledger | None = None, port: int = 0, max_streams: int = 0,
        announce: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.ledger = ledger or Ledger()
        self._announce = announce
        options: list[tuple[str, Any]] = [("grpc.so_reuseport", 0)]
        if max_streams:
            options.append(("grpc.max_concurrent_streams", max_streams))
        self._pool = ThreadPoolExecutor(THREADS)
        self.server = grpc.server(self._pool, options=options)
        kinds: dict[str, tuple[Any, Any]] = {
            "Echo": (grpc.unary_unary_rpc_method_handler, self._echo),
            "Facts": (grpc.unary_unary_rpc_method_handler, self._facts),
            "Count": (grpc.unary_stream_rpc_method_handler, self._count),
            "Sum": (grpc.stream_unary_rpc_method_handler, self._sum),
            "Early": (grpc.stream_unary_rpc_method_handler, self._early),
            "Chat": (grpc.stream_stream_rpc_method_handler, self._chat),
            "Hold": (grpc.unary_unary_rpc_method_handler, self._hold),
            "Drip": (grpc.unary_stream_rpc_method_handler, self._drip),
            "Fail": (grpc.unary_stream_rpc_method_handler, self._fail),
        }
        handlers = {method: kind(behaviour) for method, (kind, behaviour) in kinds.items()}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port: int = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def close(self) -> None:
        self.server.stop(None).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        came = [(str(key), value) for key, value in context.invocation_metadata()]
        head = [(key, value) for key, value in came if key.startswith("echo-")]
        context.send_initial_metadata((("x-app", self.name), *head))
        context.set_trailing_metadata(tuple((key, value) for key, value in came if key.startswith("trail-")))
        return request

    def _facts(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = [(key, value if isinstance(value, str) else value.hex())
                    for key, value in context.invocation_metadata()]  # fmt: skip
        facts = {"app": self.name, "metadata": metadata, "remaining": context.time_remaining()}
        return json.dumps(facts).encode()

    def _count(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        count, size = map(int, request.split())
        for number in range(count):
            yield (b"%08d" % number).ljust(size, b".")[:size]

    def _sum(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        sizes = [len(message) for message in requests]
        return json.dumps({"messages": len(sizes), "bytes": sum(sizes)}).encode()

    def _early(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return next(requests)

    def _chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from requests

    def _wait(self, tag: str, context: grpc.ServicerContext) -> None:
        gate = self.ledger.gate(tag)
        while context.is_active() and not gate.wait(0.05):
            pass

    def _hold(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        tag = request.decode()
        answered = self.ledger.watch(tag, context)
        self.ledger.begin(tag, context)
        if self._announce:
            self._announce(f"holds {tag}")
        self._wait(tag, context)
        answered()
        return self.name.encode()

    def _drip(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        tag = request.decode()
        answered = self.ledger.watch(tag, context)
        self.ledger.begin(tag, context)
        yield b"first"
        self._wait(tag, context)
        answered()
        yield b"second"

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        failure = Failure(**json.loads(request))
        count = self.ledger.begin(failure.tag, context)
        threading.Event().wait(failure.pause)
        for number in range(failure.after):
            yield b"%d" % number
        if count > failure.times:
            yield b"ok"
            return
        context.set_trailing_metadata(
            tuple((k, bytes.fromhex(v) if k.endswith("-bin") else v) for k, v in failure.trailers.items())
        )
        code = next(code for code in grpc.StatusCode if code.value[0] == failure.code)
        context.abort(code, failure.details)


class Calls:
    """The client: one channel, which is one connection. `authority` is the service's name in the mesh."""

    def __init__(self, port: int, authority: str, ca: bytes | None = None) -> None:
        options = [
            ("grpc.default_authority", authority),
            ("grpc.enable_retries", 0),  # who repeats a call is the proxy under test
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        target = f"127.0.0.1:{port}"
        if ca is None:
            self.channel = grpc.insecure_channel(target, options)
        else:
            credentials = grpc.ssl_channel_credentials(ca)
            options.append(("grpc.ssl_target_name_override", authority))
            self.channel = grpc.secure_channel(target, credentials, options)

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *error: object) -> None:
        self.channel.close()

    def unary(self, method: str) -> grpc.UnaryUnaryMultiCallable:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def server_stream(self, method: str) -> grpc.UnaryStreamMultiCallable:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def client_stream(self, method: str) -> grpc.StreamUnaryMultiCallable:
        return self.channel.stream_unary(f"/{SERVICE}/{method}")

    def both(self, method: str) -> grpc.StreamStreamMultiCallable:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")

    def facts(self, **options: Any) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.unary("Facts")(b"", timeout=20, **options))
        return facts


def main() -> None:
    app = GrpcApp(sys.argv[2], port=int(sys.argv[1]), announce=lambda line: print(line, flush=True))
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    stopped = app.server.stop(grace=10)
    print("ends", flush=True)
    stopped.wait()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
