"""Applications that misbehave behind two sidecars, and clients that do: what comes out at the other end, with
mTLS between."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Answer, Mesh, Sidecar, running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TIMEOUT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw}
spec:
  hosts: [raw]
  http:
  - match: [{uri: {prefix: /never}}]
    timeout: 300ms
    retries: {attempts: 0}
    route: [{destination: {host: raw}}]
  - retries: {attempts: 0}
    route: [{destination: {host: raw}}]
"""

Behaviour = Callable[[socket.socket], Any]


class Raw:
    """An application of a few bytes: `behave` is called with each connection whose request has arrived."""

    name = "raw"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listener.getsockname()[1]
        self.behave: Behaviour = lambda sock: sock.sendall(OK)
        self.heads: list[bytes] = []
        self.open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = sock.recv(65536)
                    if not data:
                        return
                    head += data
                self.heads.append(head)
                self.behave(sock)
            except OSError:
                return

    def close(self) -> None:
        self.listener.close()
        for sock in self.open:
            sock.close()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("upstream")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def raw(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("raw", app=Raw())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def web(mesh: Mesh, raw: Sidecar) -> Sidecar:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "raw", raw)
    mesh.apply(TIMEOUT)
    return web


def reset(sock: socket.socket) -> None:
    import struct

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def sends(data: bytes) -> Behaviour:
    return lambda sock: sock.sendall(data)


TWO = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
BOTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
GARBAGE: dict[str, tuple[Behaviour, set[int], set[str]]] = {
    # what the application does -> (statuses, flags on the far side)
    "garbage": (sends(b"\x16\x03\x01 no http at all\r\n\r\n"), {502}, {"UPE"}),
    "two lengths": (sends(TWO), {502}, {"UPE"}),
    "length and chunks": (sends(BOTH), {502}, {"UPE"}),
    "no answer": (lambda sock: None, {502, 503}, {"UC", "UR"}),
    "half a head": (sends(b"HTTP/1.1 200 OK\r\nContent-Le"), {502, 503}, {"UC", "UR", "UPE"}),
    "a reset": (reset, {502, 503}, {"UC", "UR"}),
    "a head without end": (sends(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000), {502}, {"UPE"}),
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
def test_an_application_that_answers_nonsense(web: Sidecar, raw: Sidecar, what: str) -> None:
    behave, statuses, flags = GARBAGE[what]
    raw.app.behave = behave  # type: ignore[attr-defined]
    path = f"/{what.replace(' ', '-')}"
    assert web.get("raw", path).status in statuses
    assert set(raw.logged(lambda e: e["path"] == path)["response_flags"].split(",")) & flags
    raw.app.behave = sends(OK)  # type: ignore[attr-defined]
    assert web.get("raw").body == b"ok", "the next request is served"


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_that_ends_too_early_does_not_look_whole(web: Sidecar, raw: Sidecar, head: bytes) -> None:
    raw.app.behave = sends(b"HTTP/1.1 200 OK\r\n" + head + b"x" * 100)  # type: ignore[attr-defined]
    before = raw.stat("rq_upstream_truncated")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        web.get("raw", "/short")
    wait_for(lambda: raw.stat("rq_upstream_truncated") == before + 1, what="the truncation counted")
    for proxy in (web, raw):
        proxy.idle()


def test_an_application_that_never_answers_is_given_up_in_time(web: Sidecar, raw: Sidecar) -> None:
    hold = threading.Event()
    raw.app.behave = lambda sock: hold.wait(30)  # type: ignore[attr-defined]
    try:
        # Both sides know how long it may take: whose timer is first is a matter of the millisecond.
        before = web.stat("rq_timeout") + raw.stat("rq_timeout")
        assert web.get("raw", "/never").status == 504
        lines = [side.logged(lambda e: e["path"] == "/never") for side in (web, raw)]
        assert "UT" in {line["response_flags"] for line in lines}
        assert web.stat("rq_timeout") + raw.stat("rq_timeout") > before
        # The far side is told by the closed connection: nothing is left of it there either.
        raw.idle()
    finally:
        hold.set()


def test_an_answer_before_the_request_is_whole(web: Sidecar, raw: Sidecar) -> None:
    """A refusal of a large upload arrives, though the application reads no further."""
    raw.app.behave = sends(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")  # type: ignore[attr-defined]
    with socket.create_connection(("127.0.0.1", web.outbound), timeout=20) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: raw\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1000)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.read()) == (413, b"large")


def test_a_client_that_leaves_is_noticed_on_both_hops(web: Sidecar, raw: Sidecar) -> None:
    hold, began = threading.Event(), threading.Event()

    def behave(sock: socket.socket) -> None:
        began.set()
        hold.wait(30)

    raw.app.behave = behave  # type: ignore[attr-defined]
    try:
        client = socket.create_connection(("127.0.0.1", web.outbound), timeout=20)
        client.sendall(b"GET /left HTTP/1.1\r\nHost: raw\r\n\r\n")
        assert began.wait(20)
        client.close()
        for proxy in (web, raw):
            assert "DC" in proxy.logged(lambda e: e["path"] == "/left")["response_flags"]
            proxy.idle()
    finally:
        hold.set()


def test_a_slow_reader_of_200_mb_fills_no_memory(web: Sidecar, raw: Sidecar) -> None:
    size = 200 * 10**6

    def behave(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block, sent = bytes(1 << 20), 0
        while sent < size:
            sock.sendall(block[: size - sent])
            sent += min(len(block), size - sent)
            progress.append(sent)

    progress: list[int] = []
    raw.app.behave = behave  # type: ignore[attr-defined]
    client = socket.create_connection(("127.0.0.1", web.outbound), timeout=20)
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: raw\r\n\r\n")
        client.recv(1000)
        # It reads no more: the sender comes to a stop, long before the end.
        stopped = wait_for(lambda: standing(progress), 20, "the sender to stop")
        assert stopped < size / 4
        for proxy in (web, raw):
            assert proxy.stat("worker_memory_bytes") < 4 << 20
        # And other requests are served meanwhile.
        other = Answer(*web.get("web", "/"))
        assert other.status == 200
        # Then all of it, to the last byte.
        answer = got = 1000
        while got < size:
            data = client.recv(1 << 20)
            if not data:
                break
            got += len(data)
            answer = got
        assert answer > size - 1000
    finally:
        client.close()


def standing(progress: list[int]) -> int:
    """What was sent when nothing more was sent for a while; 0 as long as it moves."""
    before = progress[-1] if progress else 0
    threading.Event().wait(0.3)
    return before if progress and progress[-1] == before else 0


def test_nobody_listens_at_the_application(mesh: Mesh, web: Sidecar) -> None:
    app = App("gone")
    gone = mesh.sidecar("gone", app=app)
    mesh.reaches(web, "gone", gone)
    app.close()
    assert web.get("gone", "/gone").status == 503
    line = gone.logged(lambda e: e["path"] == "/gone")
    assert "UF" in line["response_flags"] and line["response_code"] == 503
    gone.app = App("back", app.port)
    assert web.get("gone").status == 200, "and it is served as soon as somebody does"
