"""Who may connect, by CURVE key (ZeroMQ's ZAP, RFC 27).

The ROUTER takes any client that knows the server's public key: who it is, it has to show in its hello, by
token, registered key or certificate. The updates socket takes only keys of live sessions, that is, of
sidecars whose hello was accepted; so a subscription cannot be had without an identity. A connection that
was accepted stays until it ends: topics carry no secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container
from typing import Any

import zmq
import zmq.asyncio

ADDRESS = "inproc://zeromq.zap.01"
ROUTER_DOMAIN = b"router"
UPDATES_DOMAIN = b"updates"


class Gate:
    """Answers ZAP requests. `admitted`: the keys that may read updates. A client's key becomes its frames'
    User-Id."""

    def __init__(self, context: zmq.asyncio.Context, admitted: Container[str]) -> None:
        self._admitted = admitted
        self._socket: Any = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ADDRESS)
        self.denied = 0

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            frames = await self._socket.recv_multipart()
            await self._socket.send_multipart(self.answer(frames))

    def answer(self, frames: list[bytes]) -> list[bytes]:
        """The reply to one request."""
        if len(frames) < 7 or frames[0] != b"1.0" or frames[5] != b"CURVE" or len(frames[6]) != 32:
            self.denied += 1
            return [b"1.0", frames[1] if len(frames) > 1 else b"", b"400", b"CURVE only", b"", b""]
        key = frames[6].hex()
        if frames[2] == ROUTER_DOMAIN or (frames[2] == UPDATES_DOMAIN and key in self._admitted):
            return [b"1.0", frames[1], b"200", b"", key.encode(), b""]
        self.denied += 1
        return [b"1.0", frames[1], b"400", b"say hello first", b"", b""]

    def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._socket.close()
