"""A worker under test, forked straight from the test with a config in IR form, and upstreams that do exactly what a test says.

No arbiter and no agent: what is tested is the data plane alone. `WorkerProxy` has the segment, so counters, series and access-log records
can be looked at without an admin endpoint.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastmesh._core.proxy.worker import run_worker

from fastmesh._core.shm.segment import Segment
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from helpers.net import wait_for

Handler = Callable[["Peer"], None]


def listening() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


class Peer:
    """One accepted or dialled connection with a read buffer: what is read is asked for exactly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buf = b""
        sock.settimeout(10)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bytes:
        data = self.sock.recv(65536)
        self.buf += data
        return data

    def until(self, mark: bytes) -> bytes:
        """Bytes up to and including mark; what there is when the connection ends before."""
        while mark not in self.buf:
            if not self.more():
                data, self.buf = self.buf, b""
                return data
        at = self.buf.index(mark) + len(mark)
        data, self.buf = self.buf[:at], self.buf[at:]
        return data

    def exactly(self, n: int) -> bytes:
        while len(self.buf) < n:
            if not self.more():
                break
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def head(self) -> bytes:
        return self.until(b"\r\n\r\n")

    def rest(self) -> bytes:
        """Everything until the other side closes (a reset counts as an end)."""
        with contextlib.suppress(ConnectionResetError):
            while self.more():
                pass
        data, self.buf = self.buf, b""
        return data

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A whole response framed by content-length or chunks (not by close): status, fields (lower-case names), body."""
        head = self.head().decode("latin-1")
        lines = head.split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            self.until(b"\r\n")
        elif "content-length" in fields:
            body = self.exactly(int(fields["content-length"]))
        return status, fields, body


class Upstream:
    """A server whose every connection is handled by `handler(peer)` in a thread; `heads` has the request heads seen by `serve`."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.sock = listening()
        self.port: int = self.sock.getsockname()[1]
        self.handler = handler or self.serve
        self.connections = 0  # accepted
        self.ended = 0  # of those, how many have been read to their end
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.peers: list[Peer] = []
        self.failure: BaseException | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer = Peer(self.sock.accept()[0])
                self.connections += 1
                self.peers.append(peer)
                threading.Thread(target=self._run, args=(peer,), daemon=True).start()

    def _run(self, peer: Peer) -> None:
        try:
            self.handler(peer)
        except (ConnectionError, TimeoutError, OSError):
            pass
        except BaseException as wrong:  # a handler's assertion: the test sees it at close()
            self.failure = wrong
        finally:
            peer.close()
            self.ended += 1

    def request(self, peer: Peer) -> bytes:
        """Read one request; its head is kept in `heads`, its body in `bodies`. b"" at the end of the connection."""
        head = peer.head()
        if not head:
            return b""
        self.heads.append(head)
        lower = head.lower()
        body = b""
        if b"transfer-encoding: chunked" in lower:
            while size := int(peer.until(b"\r\n") or b"0", 16):  # b"": the client has gone
                body += peer.exactly(size)
                peer.exactly(2)
            peer.until(b"\r\n")
        elif b"content-length:" in lower:
            body = peer.exactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
        self.bodies.append(body)
        return head

    def serve(self, peer: Peer) -> None:
        """Keep-alive: answer every request with `response`."""
        while self.request(peer):
            peer.send(self.response)

    def close(self) -> None:
        self.sock.close()
        for peer in self.peers:
            peer.close()
        if self.failure is not None:
            raise self.failure


def simple_config(*ports: int, **route: Any) -> dict[str, Any]:
    """One gateway listener "l", every host and path to a cluster "c" on these ports of 127.0.0.1; `route` is added to the route."""
    return {
        "node_id": "test",
        "listeners": [{"name": "l", "kind": "gateway", "address": "127.0.0.1", "port": 80, "table": "t"}],
        "tables": [
            {
                "name": "t",
                "virtual_hosts": [
                    {
                        "name": "v",
                        "domains": ["*"],
                        "routes": [
                            {"name": "r", "dests": [{"cluster": "c", "weight": 1}], **route},
                        ],
                    }
                ],
            }
        ],
        "clusters": [{"name": "c", "endpoints": [{"address": "127.0.0.1", "port": p} for p in ports]}],
        "tls": [],
    }


class WorkerProxy:
    """A forked worker behind one listener."""

    def __init__(
        self, config: dict[str, Any] | None, options: dict[str, int] | None = None, *, log: bool = False
    ) -> None:
        self.segment = Segment.create(1)
        self.segment.set_log(log)
        self.cells = CellMap(self.segment)
        self.listener = listening()
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        names = [entry["name"] for entry in config["listeners"]] if config else ["l"]
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = run_worker(self.segment, 0, [(names[0], self.listener.fileno())], options or {})
            finally:
                os._exit(code)
        self.status: int | None = None
        if config is not None:
            self.publish(config)

    def publish(self, config: dict[str, Any]) -> int:
        gen: int = self.segment.publish(pack(config, self.cells))
        wait_for(lambda: self.segment.applied(gen) or not self.alive, timeout=10)
        assert self.alive, "the worker has died"
        return gen

    @property
    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def dial(self) -> Peer:
        return Peer(socket.create_connection(("127.0.0.1", self.port), 10))

    def get(
        self, path: str = "/", *, host: str = "test", more: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        peer = self.dial()
        try:
            peer.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
            return peer.answer()
        finally:
            peer.close()

    def counter(self, name: str) -> int:
        value: int = self.segment.counters()[name]
        return value

    def wait_counter(self, name: str, value: int) -> None:
        wait_for(lambda: self.counter(name) >= value, timeout=10)

    def wait_quiet(self) -> None:
        """Until no exchange is in flight."""
        wait_for(lambda: self.segment.worker(0)["active"] == 0, timeout=10)

    def drain(self, seconds: float = 5.0) -> None:
        self.segment.order(0, 1, time.monotonic_ns() + int(seconds * 1e9))

    def wait_exit(self, timeout: float = 10.0) -> int:
        wait_for(lambda: not self.alive, timeout=timeout)
        assert self.status is not None
        return self.status

    def close(self) -> None:
        """Stop it; it must leave in order and with nothing in flight."""
        if self.alive:
            self.segment.order(0, 2)
            assert self.wait_exit() == 0
        self.listener.close()


@contextlib.contextmanager
def serving(
    *upstreams: Upstream,
    options: dict[str, int] | None = None,
    log: bool = False,
    config: dict[str, Any] | None = None,
    **route: Any,
) -> Iterator[WorkerProxy]:
    """A worker in front of these upstreams; all are closed at the end, and the worker must have survived."""
    proxy = WorkerProxy(config or simple_config(*(u.port for u in upstreams), **route), options, log=log)
    try:
        yield proxy
        assert proxy.alive, f"the worker ended with {proxy.status}"
    finally:
        proxy.close()
        for upstream in upstreams:
            upstream.close()
