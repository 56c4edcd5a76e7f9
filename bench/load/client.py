"""The one-connection client of `pytest bench/`.

Owns: one request at a time, checked. Must not know: proxies, timing.
"""

from __future__ import annotations

import socket

from bench.certs import SERVER_NAME
from bench.check import SMALL


class Client:
    """One keep-alive connection and the plainest client there is: what it adds is the same in every run."""

    def __init__(self, port: int, path: str = "/", body: int = SMALL) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 5.0)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = f"GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode()
        self.body = body

    def ask(self) -> None:
        self.sock.sendall(self.request)
        got = self.sock.recv(1 << 20)
        assert got.startswith(b"HTTP/1.1 200"), got[:60]
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._more()
        missing = self.body - (len(got) - end - 4)
        while missing > 0:
            missing -= len(self._more())

    def _more(self) -> bytes:
        more = self.sock.recv(1 << 20)
        assert more, "closed in the middle of an answer"
        return more

    def close(self) -> None:
        self.sock.close()
