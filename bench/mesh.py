"""The pair as a user has it: two sidecars and a control plane instead of two hand-configured edge proxies.

Owns: how a control plane and sidecars are started for a measurement. Must not know: what is measured of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import check, procs
from bench.peers import Fastmesh

SERVER, CLIENT = "server", "client"  # the two services
START_SECONDS = 30.0


class Sidecar(Fastmesh):
    """fastmesh again, by another name in the tables."""

    name = "sidecar"

    def host(self) -> str:
        return SERVER


@dataclass
class Mesh:
    """A running control plane, and where its sidecars are started."""

    executable: Path
    directory: Path
    backend: int
    proxy_core: int
    load_core: int
    control: procs.Running
    api: int = 0  # port

    @property
    def token(self) -> str:
        return (self.state / "api.token").read_text().strip()

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def join(self, service: str) -> Path:
        """A join bundle; asked for until the control plane answers."""
        bundle = self.directory / f"{service}.json"
        bundle.touch(mode=0o600)

        def create() -> None:
            command = [
                str(self.executable),
                "token",
                "create",
                "--service",
                service,
                "--state",
                str(self.state),
            ]
            with bundle.open("wb") as out:
                done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=20, check=False)
            if done.returncode:
                raise check.CheckFailed(f"token create: {done.stderr.decode(errors='replace').strip()[:200]}")

        check.until(create, START_SECONDS, self.control.dead)
        return bundle

    def sidecar(self, running: procs.Running, service: str) -> tuple[int, int, int]:
        """Starts a sidecar before the backend; its (inbound, outbound, admin) ports."""
        ports = inbound, outbound, admin = procs.free_port(), procs.free_port(), procs.free_port()
        log = self.directory / f"{service}.log"
        command = [
            *(str(self.executable), "sidecar", "--join", str(self.join(service)), "--service", service),
            *("--namespace", "default", "--app", f"127.0.0.1:{self.backend}", "--concurrency", "1"),
            *("--inbound", f"127.0.0.1:{inbound}", "--outbound", f"127.0.0.1:{outbound}"),
            *("--admin", f"127.0.0.1:{admin}", "--state", str(self.directory / f"{service}-state")),
        ]
        running.roots.append(procs.spawn(command, self.proxy_core, log))
        running.logs.append(log)

        def ready() -> None:
            answer = check.get(admin, "/ready", "localhost")
            if " 200" not in answer.status_line:
                raise check.CheckFailed(f"sidecar {service}: /ready answers {answer.status_line!r}")

        check.until(ready, START_SECONDS, running.dead)
        return ports


@contextmanager
def mesh(
    peer: Fastmesh, directory: Path, backend: int, proxy_core: int, load_core: int, idle: bool = False
) -> Iterator[Mesh]:
    """A fresh control plane, on the load's core: it is no part of any figure. `idle`: it gives way."""
    executable = peer.find()
    assert executable is not None  # a missing fastmesh never gets here
    directory.mkdir()
    made = Mesh(executable, directory, backend, proxy_core, load_core, procs.Running(0))
    log = directory / "control.log"
    command = [
        *(("chrt", "--idle", "0") if idle else ()),
        str(executable),
        "control",
        "--state",
        str(made.state),
    ]
    for option in ("--listen", "--publish", "--api"):
        made.api = procs.free_port()
        command += [option, f"127.0.0.1:{made.api}"]
    try:
        made.control.roots.append(procs.spawn(command, load_core, log))
        made.control.logs.append(log)
        yield made
    finally:
        made.control.stop()
