"""A whole mesh under test: control plane, sidecars, applications; real processes on ports of 127.0.0.1.

mesh = Mesh(directory); mesh.start()
web = mesh.sidecar("web"); reviews = mesh.sidecar("reviews", version="v1", app=App("v1"))
mesh.reaches(web, "reviews", 1)
web.get("reviews", "/"); web.stat("tls_connect_fail"); mesh.cli("apply", "-f", file, "--wait")
with Load(web, "reviews") as load: ...   ->  load.good, load.bad
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from fastmesh.client import Client
from helpers.app import App
from helpers.net import free_port, wait_for
from helpers.procs import ROOT, Process, environment

START_SECONDS = 40.0  # on a machine that is busy with other tests


class Answer(NamedTuple):
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int, host: str, path: str = "/", method: str = "GET", body: bytes | None = None,
    timeout: float = 20, **headers: str,
) -> Answer:  # fmt: skip
    """One request on a connection of its own; `_` in names of headers stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(
            method, path, body, {"Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        answer = connection.getresponse()
        text = answer.read()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, text)
    finally:
        connection.close()


class Proxy:
    """A real proxy with its admin endpoint and its access log (JSON)."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.admin = free_port()
        self.log = directory / f"{name}.log"
        self.command: list[Any] = []
        self.process: Process

    def start(self, ready: bool = True) -> Process:
        self.process = Process(self.command, self.directory, name=self.name)
        if ready:
            self.wait_ready()
        return self.process

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        def ready() -> bool:
            assert self.process.alive, self.process.report()
            return self.view("/ready") == (200, "LIVE\n")

        wait_for(ready, timeout, f"/ready of {self.name}")

    def view(self, path: str) -> tuple[int, str]:
        answer = request(self.admin, f"127.0.0.1:{self.admin}", path)
        return answer.status, answer.body.decode()

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self.view("/server_info")[1])
        return info

    def stats(self) -> dict[str, float]:
        return {s["name"]: s["value"] for s in json.loads(self.view("/stats?format=json")[1])["stats"]}

    def stat(self, name: str) -> float:
        """A counter without `fastmesh_` and `_total`, or a gauge."""
        stats = self.stats()
        found = [stats[n] for n in (f"fastmesh_{name}_total", f"fastmesh_{name}", name) if n in stats]
        assert found, f"no statistic {name} in {sorted(stats)}"
        return found[0]

    def worker_pids(self) -> set[int]:
        return {w["pid"] for w in self.info()["workers"] if w["pid"]}

    @property
    def agent_pid(self) -> int:
        pid: int = self.info()["agent_pid"]
        return pid

    def endpoints(self, service: str) -> set[int]:
        """The ports that this proxy sends a service's requests to (any subset)."""
        clusters = json.loads(self.view("/clusters?format=json")[1])["clusters"]
        found = [e for c in clusters if c["name"].startswith("outbound|") and f"|{service}." in c["name"]
                 for e in c["endpoints"]]  # fmt: skip
        return {int(e["address"].rpartition(":")[2]) for e in found}

    def serials(self) -> set[str]:
        found = json.loads(self.view("/certs")[1])["certificates"]
        return {c["cert_chain"][0]["serial"] for c in found if c["context"].startswith("identity")}

    def lines(self) -> list[dict[str, Any]]:
        """The access log."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines(True) if line.endswith("\n")]

    def logged(self, match: Callable[[dict[str, Any]], object], what: str = "a line") -> dict[str, Any]:
        found = wait_for(
            lambda: next((e for e in self.lines() if match(e)), None), 10, f"{what} in {self.log}"
        )
        assert found is not None
        return found

    def idle(self) -> None:
        """Until nothing is in flight, as the gauges say it."""
        wait_for(lambda: self.stat("requests_active") == 0, 15, f"{self.name} without requests")

    def kill(self) -> None:
        """-9 to all of its processes."""
        self.process.kill()


class Sidecar(Proxy):
    """`fastmesh sidecar` and the application beside it."""

    def __init__(self, directory: Path, name: str, service: str, app: App) -> None:
        super().__init__(directory, name)
        self.service = service
        self.app = app
        self.state = directory / f"{name}-state"
        self.inbound, self.outbound = free_port(), free_port()

    def get(self, host: str, path: str = "/", **options: Any) -> Answer:
        """A request of the application, through the outbound listener."""
        return request(self.outbound, host, path, **options)


class EdgeProxy(Proxy):
    """`fastmesh edge` and its file."""

    def __init__(self, directory: Path, text: str, *options: str, name: str = "edge") -> None:
        super().__init__(directory, name)
        self.file = directory / f"{name}.yaml"
        self.file.write_text(text)
        self.command = [
            "fastmesh", "edge", "--config", self.file, "--admin", f"127.0.0.1:{self.admin}",
            "--access-log", self.log, "--access-log-format", "json", "--concurrency", "2", *options,
        ]  # fmt: skip

    def reload(self, text: str | None = None, said: str = r"reloaded") -> None:
        """HUP, and wait for what is said of it."""
        if text is not None:
            self.file.write_text(text)
        before = len(re.findall(said, self.process.stderr))
        self.process.signal(signal.SIGHUP)
        wait_for(lambda: len(re.findall(said, self.process.stderr)) > before, START_SECONDS, said)


class Mesh:
    """A control plane with its sidecars."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.state = directory / "control-state"
        self.options = options
        self.ports = [free_port() for _ in range(3)]
        self.sidecars: list[Sidecar] = []
        self.control: Process
        self._serial = 0

    # --- the control plane

    def start(self) -> Process:
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        command = [
            "fastmesh",
            "control",
            "--state",
            self.state,
            "--listen",
            addresses[0],
            "--publish",
            addresses[1],
        ]
        self.control = Process(
            [*command, "--api", addresses[2], *self.options], self.directory, name="control"
        )
        self.control.wait_output("^ready$", START_SECONDS)
        return self.control

    def kill_control(self) -> None:
        self.control.signal(signal.SIGKILL)
        self.control.wait()

    @property
    def client(self) -> Client:
        return Client.from_state(str(self.state))

    def run(self, *args: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A command of the CLI, to its end."""
        command = [sys.executable, "-m", "fastmesh", *map(str, args)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment(), cwd=ROOT, check=False
        )

    def cli(
        self, command: str, *args: str | Path, status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """A command to this control plane."""
        done = self.run(command, *args, "--state", self.state)
        assert status is None or done.returncode == status, done
        return done

    def file(self, text: str) -> Path:
        self._serial += 1
        path = self.directory / f"config-{self._serial}.yaml"
        path.write_text(text)
        return path

    def apply(self, text: str, timeout: float = 30) -> None:
        """As `fastmesh apply --wait` does it."""
        client = self.client
        done = client.apply([("test.yaml", text)])
        outcome = client.wait(done["version"], timeout)
        assert outcome["done"], outcome

    def delete(self, kind: str, name: str) -> None:
        client = self.client
        version = client.delete("resources", kind, "default", name)["version"]
        assert client.wait(version, 30)["done"]

    def bundle(self, service: str, **fields: Any) -> Path:
        self._serial += 1
        path = self.directory / f"join-{service}-{self._serial}.json"
        path.write_text(json.dumps(self.client.token_create(service, **fields)))
        path.chmod(0o600)
        return path

    def proxies(self) -> dict[str, dict[str, Any]]:
        """By service and instance id."""
        return {p["name"].rpartition(".")[0]: p for p in self.client.items("proxies")}

    def listed(self, service: str) -> set[int]:
        """The inbound ports in the registry's endpoint list."""
        items = [s for s in self.client.items("services") if s["name"] == service]
        return {e["port"] for s in items for e in s["endpoints"]}

    # --- sidecars

    def sidecar(
        self, service: str, *options: str, version: str = "", app: App | None = None, name: str = "",
        ready: bool = True, bundle: Path | None = None,
    ) -> Sidecar:  # fmt: skip
        self._serial += 1
        name = name or f"{service}{version}-{self._serial}"
        made = Sidecar(self.directory, name, service, app or App(name))
        made.command = [
            "fastmesh", "sidecar", "--join", bundle or self.bundle(service), "--service", service,
            "--app", f"127.0.0.1:{made.app.port}", "--inbound", f"127.0.0.1:{made.inbound}",
            "--outbound", f"127.0.0.1:{made.outbound}", "--admin", f"127.0.0.1:{made.admin}",
            "--state", made.state, "--access-log", made.log, "--access-log-format", "json",
            *(["--version", version] if version else []), *options,
        ]  # fmt: skip
        self.sidecars.append(made)
        made.start(ready)
        return made

    def reaches(self, caller: Sidecar, service: str, *callees: Sidecar, timeout: float = 20) -> None:
        """Until a sidecar sends a service's requests to these and to no other."""
        wanted = {callee.inbound for callee in callees}
        wait_for(
            lambda: caller.endpoints(service) == wanted, timeout, f"{service}'s endpoints in {caller.name}"
        )

    def synced(self, timeout: float = 20) -> None:
        """Until every connected proxy has applied the newest version."""
        outcome = self.client.wait(self.client.call("GET", "/healthz")["version"], timeout)
        assert outcome["done"], outcome

    def close(self) -> None:
        processes = [s.process for s in self.sidecars if hasattr(s, "process")]
        if hasattr(self, "control"):
            processes.append(self.control)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in processes:
            print(process.report())
        for sidecar in self.sidecars:
            sidecar.app.close()


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Mesh]:
    """A mesh with a control plane and no sidecar yet."""
    mesh = Mesh(directory, *options)
    try:
        mesh.start()
        yield mesh
    finally:
        mesh.close()


class Load:
    """Clients that ask again and again, each on its own kept connection, until the end of the block."""

    def __init__(
        self, port: int, host: str, path: str = "/", clients: int = 4, pause: float = 0.002,
        fresh: bool = False, method: str = "GET",
    ) -> None:  # fmt: skip
        self.good: Counter[str] = Counter()  # by who answered
        self.bad: list[str] = []
        self._arguments = (port, host, path, pause, fresh, method)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.more(3 * len(self._threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int = 50, timeout: float = 20) -> None:
        """Until so many more were answered well."""
        wanted = self.good.total() + count
        wait_for(lambda: self.good.total() >= wanted, timeout, f"{count} more answers; bad: {self.bad[:3]}")

    def _run(self) -> None:
        port, host, path, pause, fresh, method = self._arguments
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = b"x" * 100 if method != "GET" else None
        while not self._stop.is_set():
            try:
                connection.request(method, path, body, {"Host": host})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    self.good[answer.headers.get("x-app", "")] += 1
                else:
                    self.bad.append(f"{answer.status} {text[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.bad.append(repr(error))
                connection.close()
            if fresh:
                connection.close()
            self._stop.wait(pause)
        connection.close()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
