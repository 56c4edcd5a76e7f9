"""What tests of HTTP/2 through a live proxy share: configs with origins of both versions, a good client."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers import istio, wait_for
from helpers.h2origin import Origin
from helpers.h2raw import dial
from helpers.mesh import EdgeProxy
from helpers.worker import Peer, Upstream, WorkerProxy, serving

ROUTES = """
- match: [{uri: {prefix: /direct}}]
  directResponse: {status: 200, body: {string: hello}}
- match: [{uri: {prefix: /h2}}]
  route: [{destination: {host: two.local}}]
- route: [{destination: {host: one.local}}]
"""


def worker_config(one: int = 1, two: int | tuple[int, ...] = 1, **cluster: Any) -> dict[str, Any]:
    """For `serving`: /h2... goes to the HTTP/2 origin(s), /direct is answered by the proxy, the rest goes to
    `one`. `cluster`: more of the HTTP/2 cluster."""
    ports = two if isinstance(two, tuple) else (two,)

    def route(path: str, **more: Any) -> dict[str, Any]:
        return {"name": path, "path": {"op": "prefix", "value": path}, **more}

    def to(cluster: str) -> dict[str, Any]:
        return {"dests": [{"cluster": cluster, "weight": 1}]}

    def endpoints(*ports: int) -> list[dict[str, Any]]:
        return [{"address": "127.0.0.1", "port": port} for port in ports]

    routes = [
        route("/direct", direct={"status": 200, "body": b"hello"}),
        route("/h2", **to("two")),
        route("/", **to("one")),
    ]
    return {
        "node_id": "test",
        "listeners": [{"name": "l", "kind": "gateway", "address": "127.0.0.1", "port": 80, "table": "t"}],
        "tables": [{"name": "t", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]}],
        "clusters": [
            {"name": "one", "endpoints": endpoints(one)},
            {"name": "two", "endpoints": endpoints(*ports), "protocol": "h2", **cluster},
        ],
        "tls": [],
    }


def before(*origins: Origin, **options: Any) -> contextlib.AbstractContextManager[WorkerProxy]:
    """A worker before these origins of HTTP/2, for /h2...; they are closed at the end."""
    config = worker_config(two=tuple(origin.port for origin in origins))
    return serving(*origins, config=config, **options)  # type: ignore[arg-type]  # close() is all it needs


def started_edge(directory: Path, *options: str, plain: int, tls: int, one: int, two: int) -> EdgeProxy:
    """`fastmesh edge` with one worker: what hurts one client would be felt by all."""
    text = istio.text(
        istio.gateway(istio.http(plain), istio.https(tls, directory, "edge")),
        istio.routes(ROUTES),
        istio.service("one", one),
        istio.service("two", two, protocol="HTTP2", port="http2"),
    )
    edge = EdgeProxy(directory, text, "--concurrency", "1", *options)
    edge.start()
    return edge


def pss(pid: int) -> int:
    """Bytes of memory that a process answers for."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


class Good:
    """A client that asks on a connection of its own, and is answered throughout the block."""

    def __init__(self, port: int, path: str = "/direct") -> None:
        self.answered = 0
        self.bad: list[str] = []
        self._client = dial(port)
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Good:
        self._thread.start()
        self.more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.more()
        self._stop.set()
        self._thread.join(20)
        self._client.close()
        if kind is None:
            assert self.bad == []

    def more(self, n: int = 3) -> None:
        """So many answers that were asked for after this call."""
        wanted = self.answered + n + 1
        wait_for(lambda: self.answered >= wanted or self.bad, 15, "answers to a good client")
        assert self.bad == []

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.002):
                answer = self._client.get(self._path)
                assert answer.status == 200 and answer.body, answer
                self.answered += 1
        except (OSError, AssertionError) as error:
            self.bad.append(repr(error))


# ---- HTTP/1.1, byte for byte ----------------------------------------------------------------------------


@dataclass
class Message:
    """A request as an origin has read it, or an answer as a client has; framing is all that is judged."""

    line: str
    fields: list[tuple[str, str]]
    raw: bytes  # the head
    body: bytes = b""
    trailers: list[tuple[str, str]] | None = None
    interim: list[tuple[int, list[tuple[str, str]]]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value


def _fields(text: bytes) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in text.decode("latin-1").split("\r\n") if line)
    return [(name, value.strip()) for name, _, value in pairs]


def read_head(peer: Peer) -> Message | None:
    """A head and nothing behind it; None at the end of the connection."""
    raw = peer.head()
    if not raw:
        return None
    assert raw.endswith(b"\r\n\r\n"), f"cut short: {raw!r}"
    line, _, rest = raw.partition(b"\r\n")
    return Message(line.decode("latin-1"), _fields(rest), raw)


def _line(peer: Peer) -> bytes:
    line = peer.until(b"\r\n")
    if not line.endswith(b"\r\n"):
        raise ConnectionError(f"cut short: {line!r}")
    return line


def read_body(peer: Peer, m: Message) -> None:
    if m.all("transfer-encoding"):
        assert m["transfer-encoding"] == "chunked" and not m.all("content-length"), m
        while size := int(_line(peer), 16):
            m.body += peer.exactly(size)
            if (end := peer.exactly(2)) != b"\r\n":
                assert len(end) < 2, f"{end!r} behind a chunk"
                raise ConnectionError("cut short in a chunk")
        lines = b""
        while (one := _line(peer)) != b"\r\n":
            lines += one
        m.trailers = _fields(lines)
    elif m.all("content-length"):
        n = int(m["content-length"])
        m.body = peer.exactly(n)
        if len(m.body) < n:
            raise ConnectionError(f"cut short: {len(m.body)} of {n} bytes")


def read_answer(peer: Peer, method: str = "GET") -> Message:
    interim = []
    while True:
        m = read_head(peer)
        assert m is not None, "no answer"
        if m.status >= 200:
            break
        interim.append((m.status, m.fields))
    m.interim = interim
    if method != "HEAD" and m.status not in (204, 304):
        read_body(peer, m)
    return m


class H1Origin(Upstream):
    """Records requests to the byte and answers with `reply`: bytes, or what it makes of the request."""

    def __init__(self) -> None:
        super().__init__(self.record)
        self.seen: list[Message] = []
        self.partial: list[Message] = []  # heads whose body never came whole
        self.reply: bytes | Callable[[Message], bytes] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.before_body: Callable[[Peer, Message], None] | None = None

    def record(self, peer: Peer) -> None:
        while m := read_head(peer):
            self.partial.append(m)
            if self.before_body is not None:
                self.before_body(peer, m)
            read_body(peer, m)
            self.partial.remove(m)
            self.seen.append(m)
            answer = self.reply if isinstance(self.reply, bytes) else self.reply(m)
            peer.send(answer)
            if b"\r\nConnection: close\r\n" in answer:
                peer.sock.close()
                return
