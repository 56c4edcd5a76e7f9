"""A control plane under test and agents that use it: real processes, ephemeral ports."""

from __future__ import annotations

import json
import signal
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import Process, free_port, wait_for

AGENT = Path(__file__).with_name("control_agent.py")


class ControlPlane:
    """`fastmesh control` with a state directory of its own."""

    def __init__(self, spawn: Callable[..., Process], directory: Path, *options: str) -> None:
        self._spawn = spawn
        self.directory = directory
        self.state = directory / "state"
        self.port, self.updates, self.api = free_port(), free_port(), free_port()
        self.options = options
        self.process = self.start()

    def start(self, *more: str) -> Process:
        self.process = self._spawn(
            [
                "fastmesh",
                "control",
                "--state",
                self.state,
                "--listen",
                f"127.0.0.1:{self.port}",
                "--publish",
                f"127.0.0.1:{self.updates}",
                "--api",
                f"127.0.0.1:{self.api}",
                *self.options,
                *more,
            ],
            name="control",
        )
        self.process.wait_output("^ready$", 20)
        wait_for(lambda: self.call("GET", "/healthz")[0] == 200, what="the API")
        return self.process

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)
        self.process.wait()

    @property
    def token(self) -> str:
        return (self.state / "api.token").read_text().strip()

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, timeout: float = 30
    ) -> tuple[int, Any]:
        """Status and decoded body."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        url = f"http://127.0.0.1:{self.api}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, path, body)
        assert status in (200, 201), (status, answer)
        return answer

    def apply(self, text: str) -> Any:
        return self.ok("POST", "/v1/apply", text.encode())

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        text = self.ok("GET", "/metrics")
        found = [
            line.rpartition(" ")[2] for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(map(float, found))

    def bundle(self, service: str, **fields: Any) -> Path:
        bundle = self.ok("POST", "/v1/tokens", {"service": service, **fields})
        path = self.directory / f"join-{service}-{len(list(self.directory.glob('join-*')))}.json"
        path.write_text(json.dumps(bundle))
        return path

    def endpoints(self, service: str) -> set[int]:
        """The inbound ports listed for a service."""
        for found in self.ok("GET", "/v1/services")["items"]:
            if found["name"] == service:
                return {e["port"] for e in found["endpoints"]}
        return set()

    def proxies(self) -> dict[str, dict[str, Any]]:
        """Connected proxies by instance."""
        return {p["instance"]: p for p in self.ok("GET", "/v1/proxies")["items"]}

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.state / "mesh.db")


class TestAgent:
    """One control_agent.py process and what it has told."""

    __test__ = False

    def __init__(
        self, spawn: Callable[..., Process], bundle: Path, state: Path, *options: str, port: int = 15006
    ) -> None:
        self.state = state
        args = ["python", AGENT, bundle, state, "--port", str(port), *options]
        self.process = spawn(args, name=f"agent-{state.name}")

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [
            json.loads(line) for line in self.process.stdout.splitlines(keepends=True) if line.endswith("\n")
        ]
        return [line for line in lines if line["event"] == kind]

    def wait(
        self, kind: str, match: Callable[[dict[str, Any]], object] = bool, timeout: float = 15
    ) -> dict[str, Any]:
        """The newest event of a kind that fits, once there is one."""

        def find() -> dict[str, Any] | None:
            assert self.process.alive or self.events(kind), "the agent has ended"
            return next((e for e in reversed(self.events(kind)) if match(e)), None)

        found = wait_for(find, timeout, f"{kind} of {self.process.name}")
        assert found is not None
        return found

    def warned(self, text: str, timeout: float = 15) -> str:
        line: str = self.wait("warning", lambda e: text in e["line"], timeout)["line"]
        return line

    @property
    def instance(self) -> str:
        instance: str = self.wait("started")["instance"]
        return instance

    def config(self, match: Callable[[dict[str, Any]], object] = bool, timeout: float = 15) -> dict[str, Any]:
        return self.wait("config", match, timeout)
