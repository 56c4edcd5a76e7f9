"""The demo's processes: control plane, applications, sidecars; their ports, files and end.

Owns every process that it starts: none outlives the demo, not even one that is killed (the kernel ends them
then). Knows how fastmesh is started, nothing of what is shown.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastmesh.client import ApiError, Client, Unreachable

T = TypeVar("T")

START_SECONDS = 20.0
# A sidecar says goodbye and drains; nothing is in flight any more when the demo stops it.
STOP_SECONDS = 5.0
# Short, so that the demo can show in seconds what happens when the control plane stays away.
LEASE = "2s"
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)
_given: set[int] = set()


class Trouble(Exception):
    """Something of the demo did not come up or did not answer."""


def free_port() -> int:
    """A port of 127.0.0.1 below those that the kernel gives to clients, never the same twice."""
    choose = random.SystemRandom()
    while True:
        port = choose.randrange(10240, 32768)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def wait_for(look: Callable[[], T], what: str, seconds: float = START_SECONDS) -> T:
    """The first true value of `look`; Trouble when there was none in time. An OSError means: not yet."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if value := look():
                return value
        if time.monotonic() > deadline:
            raise Trouble(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


def end_with_parent() -> None:
    """In a fresh child: TERM when the demo ends, however it ends."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """A process in a group of its own, with its output in a file."""

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def said(self, word: str) -> bool:
        """Whether its output has the word; Trouble if it has ended."""
        text = self.log.read_text(errors="replace")
        if self.popen.poll() is not None:
            raise Trouble(f"{self.name} ended with status {self.popen.returncode}: {text[-500:].strip()}")
        return word in text

    def signal(self, number: int) -> None:
        """To the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.popen.wait()


class Sidecar:
    """One application with its sidecar, and what the sidecar's admin endpoint tells."""

    def __init__(self, service: str, version: str) -> None:
        self.service = service
        self.version = version
        self.name = f"{service}-{version}"
        self.app, self.inbound, self.outbound, self.admin = (free_port() for _ in range(4))

    def admin_text(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{self.name} {path}: {answer.status} {text.strip()}")
        return text

    def admin_json(self, path: str) -> Any:
        return json.loads(self.admin_text(path))

    def counter(self, name: str) -> int:
        """A counter or gauge of /stats."""
        found = self.admin_json(f"/stats?format=json&filter={name}")["stats"]
        return next(int(each["value"]) for each in found if each["name"] == name)


class Mesh:
    """Everything that runs. `with Mesh(...) as mesh` ends it all."""

    def __init__(self, show: Callable[[str], object], without: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fastmesh-demo-"))
        self.state = self.directory / "control"
        self.show = show
        self.web = Sidecar("web", "v1")
        self.reviews = [Sidecar("reviews", version) for version in ("v1", "v2") if version != without]
        self.sidecars = [self.web, *self.reviews]
        self.listen, self.publish, self.api = free_port(), free_port(), free_port()
        self.processes: dict[str, Process] = {}
        atexit.register(self.close)

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove every file. Harmless the second time; not to be interrupted."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for process in self.processes.values():
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
        self.processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- starting

    def start_control(self) -> None:
        """Start the control plane and wait until it answers."""
        arguments = ["control", "--state", self.state.name, "--lease", LEASE]
        for option, port in (("--listen", self.listen), ("--publish", self.publish), ("--api", self.api)):
            arguments += [option, f"127.0.0.1:{port}"]
        (self.directory / "control.log").unlink(missing_ok=True)
        process = self.run("control", "fastmesh", *arguments)
        wait_for(lambda: process.said("\nready"), "the control plane")

    def start_apps(self) -> None:
        """Start web and reviews, and wait until they accept."""
        started = []
        for each in self.sidecars:
            options = ["--version", each.version]
            if each is self.web:
                options = ["--proxy", f"127.0.0.1:{each.outbound}"]
            arguments = [each.service, "--port", str(each.app), *options]
            started.append(self.run(f"app-{each.name}", "fastmesh.demo.apps", *arguments))
        for process in started:
            wait_for(partial(process.said, "ready"), process.name)

    def start_ratings(self) -> list[Sidecar]:
        """Start the gRPC service, two instances with a sidecar beside each, and wait until all know them."""
        made = [Sidecar("ratings", version) for version in ("a", "b")]
        for each in made:
            arguments = ["--port", str(each.app), "--version", each.version]
            self.run(f"app-{each.name}", "fastmesh.demo.rpc", *arguments)
        for each in made:
            process = self.processes[f"app-{each.name}"]
            wait_for(partial(process.said, "ready"), process.name)
        self.sidecars += made
        self.start_sidecars(made, "--app-protocol", "grpc")
        return made

    def start_sidecars(self, new: Sequence[Sidecar], *options: str) -> None:
        """Start them, then wait until each serves and all know all the others."""
        for each in new:
            bundle = f"join-{each.service}.json"
            if not (self.directory / bundle).exists():
                self.fastmesh("token", "create", "--service", each.service, "--output", bundle)
            arguments = ["sidecar", "--join", bundle, "--service", each.service, "--version", each.version]
            for option in ("app", "inbound", "outbound", "admin"):
                arguments += [f"--{option}", f"127.0.0.1:{getattr(each, option)}"]
            arguments += ["--state", each.name, "--access-log", self.access_log(each).name]
            self.run(f"sidecar-{each.name}", "fastmesh", *arguments, "--access-log-format", "json", *options)
        for each in new:
            wait_for(partial(self.ready, each), f"sidecar {each.name}")
        wait_for(self.in_step, "all sidecars to be in step")

    def run(self, name: str, module: str, *arguments: str) -> Process:
        """Start a process of a Python module."""
        if module == "fastmesh":
            self.show(" ".join([module, *arguments]))
        process = self.processes[name] = Process(name, [module, *arguments], self.directory)
        return process

    def ready(self, sidecar: Sidecar) -> bool:
        """Whether a sidecar serves; Trouble if it has ended."""
        self.processes[f"sidecar-{sidecar.name}"].said("")
        return bool(sidecar.admin_text("/ready"))

    # --- using

    def fastmesh(self, *arguments: str) -> str:
        """Run a command of the CLI as a user does, in the demo's directory; its output. Trouble if it
        fails."""
        self.show(" ".join(["fastmesh", *arguments]))
        done = subprocess.run(
            [sys.executable, "-m", "fastmesh", *arguments],
            cwd=self.directory,
            env={**os.environ, "FASTMESH_STATE": self.state.name},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Trouble(f"fastmesh {arguments[0]} ended with status {done.returncode}: {said}")
        return done.stdout

    def proxies(self) -> list[dict[str, Any]]:
        """What the control plane knows of its sidecars."""
        return Client.from_state(str(self.state)).items("proxies")

    def in_step(self) -> bool:
        """Whether every sidecar is connected and serves the newest of everything."""
        try:
            proxies = self.proxies()
        except (ApiError, Unreachable):
            return False
        return len(proxies) == len(self.sidecars) and all(
            each["ready"] and not each["late"] and not each["refused"] for each in proxies
        )

    def access_log(self, sidecar: Sidecar) -> Path:
        return self.directory / f"access-{sidecar.name}.json"

    def logged(self, sidecar: Sidecar, request_id: str) -> dict[str, Any]:
        """The access-log record of a request, once it is written."""

        def find() -> dict[str, Any] | None:
            for line in self.access_log(sidecar).read_text().splitlines(keepends=True):
                if request_id in line and line.endswith("\n"):
                    record: dict[str, Any] = json.loads(line)
                    return record
            return None

        found = wait_for(find, f"request {request_id} in the access log of {sidecar.name}", 5.0)
        assert found is not None
        return found

    def complaints(self, most: int = 12) -> list[str]:
        """What the processes logged as errors and warnings, the last of it."""
        found = []
        for path in sorted(self.directory.glob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                if " error " in line or " warning " in line or " ERROR " in line or " WARNING " in line:
                    found.append(f"{path.stem}: {line}")
        return found[-most:]
