"""TCP proxying under test: configs of one TCP listener, and upstreams that do what a test says."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from typing import Any

from helpers.worker import Peer, Upstream

CHUNK = 65536


def tcp_config(*ports: int, protocol: str = "tcp", **cluster: Any) -> dict[str, Any]:
    """One listener "l" whose sessions go to a cluster "c" on these ports of 127.0.0.1."""
    return {
        "node_id": "test",
        "listeners": [
            {
                "name": "l",
                "kind": "gateway",
                "address": "127.0.0.1",
                "port": 80,
                "table": "t",
                "protocol": protocol,
            }
        ],
        "tables": [
            {
                "name": "t",
                "virtual_hosts": [
                    {
                        "name": "v",
                        "domains": ["*"],
                        "routes": [{"name": "r", "dests": [{"cluster": "c", "weight": 1}]}],
                    }
                ],
            }
        ],
        "clusters": [
            {
                "name": "c",
                "protocol": "tcp",
                "endpoints": [{"address": "127.0.0.1", "port": p} for p in ports],
                **cluster,
            }
        ],
        "tls": [],
    }  # fmt: skip


def echo(peer: Peer) -> None:
    """Everything back, to the end; then its own end."""
    while data := peer.sock.recv(CHUNK):
        peer.sock.sendall(data)


def named(name: bytes) -> Upstream:
    """Speaks first: its name, and the end."""
    return Upstream(lambda peer: peer.send(name))


def data_of(n: int, seed: int = 1) -> bytes:
    """n bytes that do not repeat."""
    return random.Random(seed).randbytes(n)


class Sending(threading.Thread):
    """Sends all of it, then FIN."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        super().__init__(daemon=True)
        self.sock, self.data = sock, data
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.sendall(self.data)
            self.sock.shutdown(socket.SHUT_WR)


def read_all(sock: socket.socket) -> bytes:
    out = bytearray()
    while data := sock.recv(CHUNK):
        out += data
    return bytes(out)


def was_reset(sock: socket.socket) -> bool:
    """Reads to the end; whether that was a reset."""
    try:
        while sock.recv(CHUNK):
            pass
    except ConnectionResetError:
        return True
    return False
