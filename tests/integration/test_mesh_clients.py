"""Clients and servers that people use, through two sidecars: curl, httpx, websockets, uvicorn, nginx."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Process, free_port, wait_for, wait_port
from helpers.app import App, Existing
from helpers.mesh import Mesh, Sidecar, running

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("clients")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> Sidecar:
    return mesh.sidecar("reviews", app=App("reviews"))


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: Sidecar) -> Sidecar:
    web = mesh.sidecar("web", app=App("web"))
    mesh.reaches(web, "reviews", reviews)
    return web


# --- curl


def curl(web: Sidecar, *args: str, path: str = "/") -> subprocess.CompletedProcess[bytes]:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    url = f"http://127.0.0.1:{web.outbound}{path}"
    command = ["curl", "-sS", "-i", "--max-time", "20", "-H", "Host: reviews", *args, url]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("args", "status"),
    [
        ([], b"HTTP/1.1 200"),
        (["--http1.0"], b"HTTP/1."),
        (["-X", "DELETE"], b"HTTP/1.1 200"),
        (["-d", "a=1&b=2"], b"HTTP/1.1 200"),
        (["-F", "field=value"], b"HTTP/1.1 200"),
    ],
)
def test_curl(web: Sidecar, args: list[str], status: bytes) -> None:
    answer = curl(web, *args).stdout
    assert answer.startswith(status) and b" 200 " in answer.splitlines()[0]
    assert b'"app": "reviews"' in answer


def test_curl_asks_for_the_head_alone(web: Sidecar) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    head = curl(web, "-I", path="/bytes/1234").stdout
    assert head.startswith(b"HTTP/1.1 200") and b"content-length: 1234" in head.lower()


def test_curl_keeps_a_connection_for_several_requests(web: Sidecar) -> None:
    url = f"http://127.0.0.1:{web.outbound}/"
    done = curl(web, "-w", "\nconnects=%{num_connects}\n", url, url)
    assert done.stdout.count(b"HTTP/1.1 200") == 3
    assert done.stdout.count(b"connects=1") == 1 and done.stdout.count(b"connects=0") == 2


@pytest.mark.parametrize("args", [[], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]])
def test_curl_uploads(web: Sidecar, reviews: Sidecar, tmp_path: Path, args: list[str]) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"u" * (3 * MEBIBYTE + 7))
    answer = curl(web, "-T", str(file), *args, path="/upload").stdout
    assert b" 200 " in answer
    # curl asks before it sends so much; who answers is the application, through both sidecars.
    assert b"HTTP/1.1 100 Continue" in answer
    assert reviews.app.seen[-1]["method"] == "PUT" and reviews.app.seen[-1]["body"] == 3 * MEBIBYTE + 7


def test_curl_uploads_by_http_1_0(web: Sidecar, reviews: Sidecar, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"u" * 70_000)
    assert b" 200 " in curl(web, "--http1.0", "-T", str(file), path="/old").stdout
    assert reviews.app.seen[-1]["body"] == 70_000


def test_curl_by_http_proxy(web: Sidecar) -> None:
    """The other way in: the outbound port as http_proxy, an absolute target."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    proxy = f"http://127.0.0.1:{web.outbound}"
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "20", "-x", proxy, "http://reviews/by-proxy"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and b'"/by-proxy"' in done.stdout, done


# --- httpx, websockets


def test_httpx(web: Sidecar) -> None:
    import httpx

    base = f"http://127.0.0.1:{web.outbound}"
    with httpx.Client(base_url=base, headers={"Host": "reviews"}, timeout=20) as client:
        for _ in range(3):
            assert client.get("/x").json()["app"] == "reviews"
        assert client.post("/form", data={"a": "1"}).json()["body"] == 3
        assert client.post("/stream", content=(b"c" * 1000 for _ in range(50))).json()["body"] == 50_000
        assert len(client.get(f"/bytes/{2 * MEBIBYTE}").content) == 2 * MEBIBYTE
        with client.stream("GET", "/bytes/100000") as answer:
            assert sum(map(len, answer.iter_bytes())) == 100_000

    async def many() -> list[int]:
        async with httpx.AsyncClient(base_url=base, headers={"Host": "reviews"}, timeout=20) as client:
            return [a.status_code for a in await asyncio.gather(*(client.get(f"/{n}") for n in range(60)))]

    assert asyncio.run(many()) == [200] * 60


def test_websockets(mesh: Mesh, web: Sidecar) -> None:
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    def echo(connection) -> None:  # type: ignore[no-untyped-def]
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        chat = mesh.sidecar("chat", app=Existing("chat", port))
        mesh.reaches(web, "chat", chat)
        raw = socket.create_connection(("127.0.0.1", web.outbound), timeout=20)
        with connect("ws://chat/room", sock=raw, ping_interval=None) as client:
            for message in ("hello", "x" * 200_000, b"\x00\xff" * 1000, ""):
                client.send(message)
                assert client.recv(timeout=20) == message
            assert client.ping().wait(20)
        assert chat.stat("rq_upgrade") == 1
        line = chat.logged(lambda e: e["path"] == "/room")
        assert line["response_code"] == 101
        server.shutdown()


# --- uvicorn, whose keep-alive is shorter than ours

UVICORN = """
import asyncio, sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    more = True
    size = 0
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning",
            timeout_keep_alive=int(sys.argv[2]))
"""


@pytest.mark.parametrize("keep_alive", [1, 5])
def test_no_request_fails_when_uvicorn_closes_idle_connections(
    mesh: Mesh, web: Sidecar, tmp_path: Path, keep_alive: int
) -> None:
    """Gaps around its timeout: the connection is being closed just when the next request is sent on it."""
    port = free_port()
    process = Process(["python", "-c", UVICORN, str(port), str(keep_alive)], tmp_path, name="uvicorn")
    try:
        wait_port(port, 30)
        service = f"uvicorn{keep_alive}"
        sidecar = mesh.sidecar(service, app=Existing(service, port))
        mesh.reaches(web, service, sidecar)
        answers: list[tuple[float, str, int]] = []

        def caller(gap: float, method: str) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", web.outbound, timeout=20)
            for _ in range(4 if keep_alive == 1 else 2):
                body = b"body" if method == "POST" else None
                connection.request(method, "/", body, {"Host": service})
                answer = connection.getresponse()
                answer.read()
                answers.append((gap, method, answer.status))
                time.sleep(gap)

        gaps = [keep_alive + n / 1000 for n in (-30, -10, -3, -1, 0, 1, 2, 3, 5, 10, 30)]
        threads = [threading.Thread(target=caller, args=(gap, m)) for gap in gaps for m in ("GET", "POST")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == len(threads) * (4 if keep_alive == 1 else 2)
        assert [a for a in answers if a[2] != 200] == []
        # It was not for want of closed connections.
        assert sidecar.stat("up_cx_idle_closed") + sidecar.stat("rq_retry_reused") > 0
    finally:
        process.kill()


# --- nginx

NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}; keepalive_timeout 60; keepalive_requests 5;
  types {{}} default_type text/plain;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root {directory}; }}
    location /put {{ client_max_body_size 10m; proxy_pass http://127.0.0.1:{port}/sink; }}
    location /sink {{ client_max_body_size 10m; return 200 "sunk\\n"; }}
    location /redirect {{ return 302 /elsewhere; }}
  }}
}}
"""


def test_nginx_as_the_application(mesh: Mesh, web: Sidecar, tmp_path: Path) -> None:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not binary:
        pytest.skip("nginx is not installed")
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096)
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(directory=tmp_path, port=port))
    (tmp_path / "logs").mkdir()
    process = Process([binary, "-p", str(tmp_path), "-c", str(config)], tmp_path, name="nginx")
    try:
        wait_port(port, 20)
        static = mesh.sidecar("static", app=Existing("static", port))
        mesh.reaches(web, "static", static)
        got = web.get("static", "/file")
        assert got.status == 200 and got.body == (tmp_path / "file").read_bytes()
        part = web.get("static", "/file", range="bytes=256-511")
        assert part.status == 206 and part.body == bytes(range(256))
        tag = got.headers["etag"]
        assert web.get("static", "/file", if_none_match=tag).status == 304
        assert web.get("static", "/file", method="HEAD").headers["content-length"] == str(MEBIBYTE)
        assert web.get("static", "/none").status == 404
        assert web.get("static", "/redirect").headers["location"].endswith("/elsewhere")
        assert web.get("static", "/put", method="PUT", body=b"p" * MEBIBYTE).body == b"sunk\n"
        # nginx closes each connection after five requests.
        assert [web.get("static", "/file").status for _ in range(12)] == [200] * 12
    finally:
        process.kill()
    # And when it is gone: 503, from the far side, where the flag says why.
    wait_for(lambda: web.get("static", "/dead").status == 503, what="503")
    assert "UF" in static.logged(lambda e: e["path"] == "/dead")["response_flags"]
