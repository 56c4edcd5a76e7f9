"""What tests of a real edge proxy share: a backend, config files, requests."""

from __future__ import annotations

import http.client
import http.server
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import Process, free_port, istio, wait_for

ROUTES = """
- match: [{{uri: {{prefix: /direct}}}}]
  directResponse: {{status: 200, body: {{string: {word}}}}}
- match: [{{uri: {{prefix: /none}}}}]
  route: [{{destination: {{host: nobody.local, port: {{number: 80}}}}}}]
- route: [{{destination: {{host: app.local, port: {{number: 80}}}}}}]
"""


class Backend:
    """An HTTP server that answers with the path; /sleep/SECONDS takes its time."""

    def __init__(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.startswith("/sleep/"):
                    outer.sleeping.set()
                    time.sleep(float(self.path.rpartition("/")[2]))
                body = self.path.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        outer = self
        self.sleeping = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def get(port: int, path: str, method: str = "GET", timeout: float = 10, **headers: str) -> tuple[int, str]:
    """Status and body."""
    status, _, body = fetch(port, path, method, timeout, **headers)
    return status, body


def fetch(
    port: int, path: str, method: str = "GET", timeout: float = 10, **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers (lower case), body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body
    finally:
        connection.close()


class Edge:
    """A real edge proxy and its file."""

    def __init__(self, spawn: Callable[..., Process], directory: Path, backend: int) -> None:
        self.file = directory / "edge.yaml"
        self.port = free_port()
        self.admin = free_port()
        self.backend = backend
        self.directory = directory
        self._spawn = spawn
        self.write()

    def write(self, word: str = "hello", resolution: str = "STATIC", address: str = "127.0.0.1") -> None:
        endpoints = f"{{address: {address}, ports: {{http: {self.backend}}}}}"
        text = istio.text(
            istio.gateway(istio.http(self.port)),
            istio.routes(ROUTES.format(word=word)),
            istio.entry("app", resolution, endpoints),
            istio.entry("nobody", "DNS", "{address: never.invalid}"),
        )
        self.file.write_text(text)

    def start(self, *options: str, ready: bool = True) -> Process:
        command = ["fastmesh", "edge", "--config", self.file, "--admin", f"127.0.0.1:{self.admin}"]
        if "--concurrency" not in options:
            command += ["--concurrency", "1"]
        self.process = self._spawn([*command, *options], name="edge")
        if ready:
            self.process.wait_output(r"serving .*workers", 20)
            wait_for(lambda: self.view("/ready") == (200, "LIVE\n"), what="/ready")
        return self.process

    def view(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        return get(self.admin, path, method, **headers)

    def json(self, path: str) -> Any:
        status, body = self.view(path)
        assert status == 200, body
        return json.loads(body)

    def workers(self) -> list[dict[str, Any]]:
        """Those that are there."""
        return [w for w in self.json("/server_info")["workers"] if w["pid"]]
