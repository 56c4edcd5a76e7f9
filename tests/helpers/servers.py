"""Servers that people run their applications on, each with a keep-alive time: uvicorn, gunicorn, node. What
an application answers is the length of the body that it got.

with started("uvicorn", directory, keep_alive=5) as port: ...
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import istio
from helpers.mesh import EdgeProxy
from helpers.net import free_port, wait_port
from helpers.procs import Process

NAMES = ["uvicorn", "gunicorn", "node"]
# What each does when nobody says anything.
DEFAULTS = {"uvicorn": 5, "gunicorn": 2, "node": 5}
START_SECONDS = 40.0

TAKES = 0.05  # seconds that an answer takes, so that requests that come together need a connection each

# Keeps its loop from its timers for a while, as applications do.
ASGI = """
import asyncio, time
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    got = 0
    while True:
        message = await receive()
        got += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    time.sleep(0.002)
    await asyncio.sleep(0.05)
    body = str(got).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""

WSGI = """
import time
def app(environ, start_response):
    got = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    time.sleep(0.05)
    body = str(got).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

NODE = """
const server = require("http").createServer((request, response) => {
  let got = 0;
  request.on("data", (chunk) => { got += chunk.length; });
  request.on("end", () => setTimeout(() => {
    const body = String(got);
    response.writeHead(200, {"content-length": body.length});
    response.end(body);
  }, 50));
});
server.keepAliveTimeout = Number(process.argv[2]) * 1000;
server.listen(Number(process.argv[3]), "127.0.0.1");
"""


def _command(name: str, directory: Path, port: int, keep_alive: int) -> list[str]:
    address = f"127.0.0.1:{port}"
    if name == "node":
        binary = shutil.which("node")
        if binary is None:
            pytest.skip("node is not installed")
        (directory / "app.js").write_text(NODE)
        return ["env", "-u", "LD_PRELOAD", binary, "app.js", str(keep_alive), str(port)]
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    if name == "uvicorn":
        (directory / "asgi_app.py").write_text(ASGI)
        options = ["--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", str(keep_alive)]
        return ["python", "-m", "uvicorn", *options, "--log-level", "warning", "asgi_app:app"]
    (directory / "wsgi_app.py").write_text(WSGI)
    # Threads: its synchronous workers keep no connection.
    options = [
        "--bind",
        address,
        "--worker-class",
        "gthread",
        "--threads",
        "64",
        "--keep-alive",
        str(keep_alive),
    ]
    return ["python", "-m", "gunicorn", *options, "wsgi_app:app"]


@contextlib.contextmanager
def started(name: str, directory: Path, keep_alive: int) -> Iterator[int]:
    """One of NAMES; its port. The test is skipped where it is not installed."""
    port = free_port()
    process = Process(
        _command(name, directory, port, keep_alive),
        directory,
        name=name,
        cwd=directory,
        env={"HOME": str(directory)},
    )
    try:
        wait_port(port, START_SECONDS)
        yield port
    finally:
        process.kill()
        print(process.report())


@contextlib.contextmanager
def edge(directory: Path, *ports: int) -> Iterator[tuple[int, EdgeProxy]]:
    """An edge of two workers before servers at these ports, and the port where it listens."""
    port = free_port()
    text = istio.text(
        istio.gateway(istio.http(port)),
        istio.routes("- route: [{destination: {host: app.local}}]"),
        istio.service("app", *ports),
    )
    made = EdgeProxy(directory, text)
    try:
        made.start()
        yield port, made
    finally:
        made.kill()
        print(made.process.report())
