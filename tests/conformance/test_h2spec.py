"""h2spec in strict mode over the protocol layer alone: a plain server that answers every request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from shim.h2_shim import Side

from helpers import h2spec

CLOSED = 4
HEAD_OR_DATA = ("head", "data")


def answer(side: Side, sid: int) -> None:
    side.answer(sid, 200, [(b"content-type", b"text/plain")])
    side.data(sid, b"hello " * 4, True)


def serve(sock: socket.socket) -> None:
    """One connection, as the data plane would: bytes in, events, whatever is ready out."""
    side = Side()
    waiting: set[int] = set()
    with contextlib.suppress(OSError), sock:
        sock.sendall(side.take())
        while data := sock.recv(65536):
            code = side.receive(data, int(time.monotonic() * 1000))
            events, side.events = side.events, []
            for event in events:
                kind, sid = event[:2] if len(event) > 1 else (event[0], 0)
                if kind == "reset":
                    waiting.discard(sid)
                elif kind == "refused":
                    side.answer(sid, 431, end=True)
                elif side.state(sid) >= 0 and (kind == "trailers" or (kind in HEAD_OR_DATA and event[-1])):
                    answer(side, sid)
                    waiting.add(sid)
            sock.sendall(side.take())
            for sid in [sid for sid in waiting if side.state(sid) == CLOSED]:
                side.release(sid)
                waiting.discard(sid)
            if code < 0:
                sock.shutdown(socket.SHUT_WR)
                return


@pytest.fixture
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.timeout(600)
def test_every_case_passes(port):
    assert h2spec.run(port) == ""
