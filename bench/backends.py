"""The applications behind the proxies: one that speaks HTTP/1 only and one that speaks HTTP/2 only.

Owns: how they are started and what they counted. Must not know: proxies.
Neither speaks the other's version, so a chain that answers has the version on its last side that it should.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import build, check, procs
from bench.peers import Chain, Service, Version


@dataclass(frozen=True)
class Counted:
    """What the HTTP/2 backend has seen."""

    connections: int
    requests: int
    held: int  # streams that wait for an answer that never comes


@dataclass(frozen=True)
class Backends:
    http1: int  # ports
    http2: dict[Service, int]
    status: int
    running: procs.Running

    def port(self, chain: Chain) -> int:
        """Where the chain's last hop sends its requests."""
        if chain.hops[-1].up is Version.H2:
            return self.http2[chain.service]
        return self.http1

    def pids(self) -> list[int]:
        return self.running.pids()

    def counted(self) -> Counted:
        with socket.create_connection(("127.0.0.1", self.status), check.TIMEOUT) as sock:
            return Counted(*map(int, sock.recv(256).split()))


@contextmanager
def started(directory: Path, core: int) -> Iterator[Backends]:
    running = procs.Running(procs.free_port())
    ports = [procs.free_port() for _ in range(4)]
    web, grpc, hold, status = ports
    commands = {"backend": [running.port], "backend-h2": ports}
    try:
        for name, numbers in commands.items():
            log = directory / f"{name}.log"
            running.roots.append(procs.spawn([str(build.tool(name)), *map(str, numbers)], core, log))
            running.logs.append(log)
        made = Backends(
            running.port, {Service.WEB: web, Service.GRPC: grpc, Service.HOLD: hold}, status, running
        )
        check.until(lambda: check.plain(made.http1, "/", "x"), 5.0, running.dead)
        check.until(made.counted, 5.0, running.dead)
        yield made
    finally:
        running.stop()
