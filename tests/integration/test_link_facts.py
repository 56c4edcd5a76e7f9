"""What HTTP/2 does not say of an HTTP/1 message crosses the mesh link: the case of names, the version."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from helpers import ways
from helpers.h2client import H2Client
from helpers.ways import Upstream, Way

ANSWER = b"HTTP/1.1 200 OK\r\nX-WeIrD-Answer: 1\r\nCONTENT-LENGTH: 2\r\nplain: 3\r\nServer-Says: x\r\n\r\nok"


class Origin:
    """Keeps each request's head as it came."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heads: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            data = b""
            while part := sock.recv(65536):
                data += part
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    self.heads.append(head)
                    sock.sendall(ANSWER)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.listener.close()


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, origin: Origin
) -> Iterator[Way]:
    upstream = Upstream("odd", [origin.listener.getsockname()[1]])
    with ways.opened(request.param, tmp_path_factory.mktemp("way"), [upstream]) as way:
        yield way


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(request)
        got = b""
        while not got.endswith(b"ok"):
            part = sock.recv(65536)
            if not part:
                break
            got += part
        return got


FIELDS = [
    *(b"X-WeIrD-Case: 1", b"ACCEPT: */*", b"user-agent: x", b"Content-Type: text/plain"),
    *(b"x_Y: 2", b"X-B3-TraceId: a"),
]


@ways.PROXIED
def test_names_keep_their_case_both_ways(way: Way, origin: Origin) -> None:
    for _ in range(3):  # also when HPACK knows them
        got = ask(way.plain, b"GET /x HTTP/1.1\r\nHost: odd\r\n" + b"\r\n".join(FIELDS) + b"\r\n\r\n")
        lines = origin.heads[-1].split(b"\r\n")
        assert lines[0] == b"GET /x HTTP/1.1"
        assert [line for line in lines if line in FIELDS] == FIELDS
        assert {b"X-WeIrD-Answer: 1", b"plain: 3", b"Server-Says: x"} < set(got.split(b"\r\n"))
        assert not [line for line in lines if b"x-fastmesh" in line.lower()]
        assert b"x-fastmesh" not in got.lower()


@ways.PROXIED
def test_a_client_of_http_1_0(way: Way, origin: Origin) -> None:
    got = ask(way.plain, b"GET /old HTTP/1.0\r\nHost: odd\r\nX-OLD: 1\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ") and b"chunked" not in got
    assert b"X-OLD: 1" in origin.heads[-1].split(b"\r\n")


@ways.SIDECARS
def test_what_a_client_says_of_itself_is_not_believed(way: Way, origin: Origin) -> None:
    with H2Client(way.plain) as client:
        assert client.get("odd", "/forged", headers=[("x-fastmesh-h1", "1ttu")]).status == 200
    assert b"x-fastmesh" not in origin.heads[-1].lower()
