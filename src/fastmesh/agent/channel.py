"""The agent's two ZeroMQ sockets to the control plane, driven by the agent's loop.

Owns sockets, their descriptors on the loop and the monitor that tells why a connection failed. It must not
know the messages: frames go in and come out as bytes. One Channel is one try: when it is lost it says so
once and is closed; the owner makes the next one. ZeroMQ's descriptor is edge-triggered by its nature: it
is drained until EVENTS shows nothing, and looked at again after each send.
"""

from __future__ import annotations

import struct

import zmq

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastmesh.agent.loop import Loop

    Socket = Any  # pyzmq types its sockets by what one call returns; ours are used in several ways

CONNECT_MS = 5_000
HANDSHAKE_MS = 5_000
PING_MS = 2_000  # ZMTP heartbeats: a peer that vanished without a FIN is noticed
PING_TIMEOUT_MS = 6_000
QUEUE = 10_000  # frames waiting in either direction
TURN = 500  # frames taken in one turn of the loop, so that a flood cannot starve the rest of the agent
LINGER_MS = 500

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)
_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


class Channel:
    """A DEALER to the control plane, and once it is wanted a SUB for its updates.

    `on_frame(bytes)` for the DEALER, `on_update(topic, bytes)` for the SUB, `on_lost(reason)` at most once.
    """

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[Socket],
        bundle: dict[str, Any],
        keys: tuple[bytes, bytes],
        limit: int,
        on_frame: Callable[[bytes], object],
        on_update: Callable[[bytes, bytes], object],
        on_lost: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._context = context
        self._bundle = bundle
        self._keys = keys
        self._limit = limit
        self._on_frame = on_frame
        self._on_update = on_update
        self._on_lost = on_lost
        self._shaken = False
        self._sub: Socket | None = None
        self._open = True
        self._dealer = self._make(zmq.DEALER)
        address = f"inproc://monitor-{id(self):x}"
        self._dealer.monitor(address, _EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.linger = 0
        self._monitor.connect(address)
        loop.add_reader(self._monitor.getsockopt(zmq.FD), self._drain_monitor)
        loop.add_reader(self._dealer.getsockopt(zmq.FD), self._drain_dealer)
        self._dealer.connect(bundle["control"])
        self._look()

    def _make(self, kind: int) -> Socket:
        socket = self._context.socket(kind)
        socket.linger = LINGER_MS if kind == zmq.DEALER else 0
        socket.setsockopt(zmq.RECONNECT_IVL, -1)  # trying again is the owner's decision, with its back-off
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PING_TIMEOUT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, self._limit)
        socket.setsockopt(zmq.SNDHWM, QUEUE)
        socket.setsockopt(zmq.RCVHWM, QUEUE)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys[0])
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys[1])
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._bundle["server_key"].encode())
        return socket

    def send(self, frame: bytes) -> None:
        """Queue a frame for the control plane."""
        if not self._open:
            return
        try:
            self._dealer.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self._lost("the control plane takes no more frames")
            return
        self._loop.call_later(0, self._drain_dealer)

    def subscribe(self, subscriptions: list[bytes]) -> None:
        """Open the updates socket anew with these subscriptions, in this order. (A refused SUB never
        reconnects: it is replaced.)"""
        self._drop_sub()
        self._sub = sub = self._make(zmq.SUB)
        sub.connect(self._bundle["updates"])
        for subscription in subscriptions:
            sub.setsockopt(zmq.SUBSCRIBE, subscription)
        self._loop.add_reader(sub.getsockopt(zmq.FD), self._drain_sub)
        self._loop.call_later(0, self._drain_sub)

    def _look(self) -> None:
        """Drain all sockets at the loop's next turn."""
        self._loop.call_later(0, self._drain_monitor)
        self._loop.call_later(0, self._drain_dealer)

    def _drain_dealer(self) -> None:
        for frames in self._drain(lambda: self._dealer if self._open else None, self._drain_dealer):
            if len(frames) == 1:
                self._on_frame(frames[0])

    def _drain_sub(self) -> None:
        for frames in self._drain(lambda: self._sub if self._open else None, self._drain_sub):
            if len(frames) == 2:
                self._on_update(frames[0], frames[1])

    def _drain(self, which: Callable[[], Socket | None], again: Callable[[], object]) -> Any:
        """Yield what a socket holds; the socket is looked up each time, as a frame's handler may have
        closed or replaced it."""
        for _ in range(TURN):
            socket = which()
            if socket is None:
                return
            try:
                yield socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                # Reading EVENTS is what re-arms the descriptor.
                if not socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    return
        self._loop.call_later(0, again)

    def _drain_monitor(self) -> None:
        while self._open:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                if not self._monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    return
                continue
            event = struct.unpack_from("=H", frames[0])[0]
            where = self._bundle["control"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._shaken = True
            elif event in _FAILED or (event == zmq.EVENT_DISCONNECTED and not self._shaken):
                self._lost(
                    f"{where} refused the encrypted handshake: is the join bundle another control plane's?"
                )
            elif event == zmq.EVENT_DISCONNECTED:
                self._lost(f"{where} closed the connection")
            else:
                self._lost(f"{where} cannot be reached")

    def _lost(self, reason: str) -> None:
        if self._open:
            self.close()
            self._on_lost(reason)

    def _drop_sub(self) -> None:
        if self._sub is not None:
            self._loop.remove_reader(self._sub.getsockopt(zmq.FD))
            self._sub.close()
            self._sub = None

    def close(self) -> None:
        """Close both sockets; frames queued for the control plane are still sent for LINGER_MS."""
        if not self._open:
            return
        self._open = False
        self._drop_sub()
        self._loop.remove_reader(self._monitor.getsockopt(zmq.FD))
        self._loop.remove_reader(self._dealer.getsockopt(zmq.FD))
        self._dealer.disable_monitor()
        self._monitor.close()
        self._dealer.close()
