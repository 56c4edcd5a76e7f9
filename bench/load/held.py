"""HTTP/2 connections that are held: idle after an answer, or with streams in flight.

Owns: the plainest client of HTTP/2 there is, frames by hand. Must not know: what is measured.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.load import LoadFailed, Target

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING, GOAWAY, RST_STREAM, DATA = 1, 4, 6, 7, 3, 0
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Connection:
    def __init__(self, target: Target) -> None:
        self.sock = socket.create_connection(("127.0.0.1", target.port), 10.0)
        host, path = target.host.encode(), target.path.encode()
        self.block = b"\x82\x86\x04%c%s\x01%c%s" % (len(path), path, len(host), host)
        self.next = 1
        self.rest = b""
        self.sock.sendall(PREFACE + _frame(SETTINGS, 0, 0))

    def ask(self, count: int = 1) -> None:
        frames = []
        for _ in range(count):
            frames.append(_frame(HEADERS, END_STREAM | END_HEADERS, self.next, self.block))
            self.next += 2
        self.sock.sendall(b"".join(frames))

    def _frames(self) -> Iterator[tuple[int, int]]:
        self.rest += self.sock.recv(65536) or b""
        while len(self.rest) >= 9:
            size = int.from_bytes(self.rest[:3], "big")
            if len(self.rest) < 9 + size:
                return
            kind, flags, payload = self.rest[3], self.rest[4], self.rest[9 : 9 + size]
            self.rest = self.rest[9 + size :]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.sock.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
            yield kind, flags

    def answered(self) -> None:
        """Until one answer is complete."""
        while True:
            before = len(self.rest)
            for kind, flags in self._frames():
                if kind in (GOAWAY, RST_STREAM):
                    raise LoadFailed("a held connection was ended")
                if kind in (HEADERS, DATA) and flags & END_STREAM:
                    return
            if len(self.rest) == before == 0 and self.sock.fileno() < 0:
                raise LoadFailed("closed")


@contextmanager
def connections(target: Target, count: int, ask: bool = True) -> Iterator[list[Connection]]:
    """So many, each having got one answer (ask)."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            connection = Connection(target)
            stack.enter_context(connection.sock)
            if ask:
                connection.ask()
                connection.answered()
            made.append(connection)
        yield made
