"""Clients and servers that people use, HTTP/2 among them, each version to each: curl, nghttp, h2load, httpx; hypercorn, nginx."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers import Process, free_port, wait_for, wait_port, ways
from helpers.certs import Authority
from helpers.ways import Upstream, Way

MEBIBYTE = 1 << 20

# Tells what has reached it; answers by path.
APP = """
import hashlib, json
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path, status, fields, trailers = scope["path"], 200, [], []
    if path == "/none":
        status, answer = 204, b""
    elif path.startswith("/bytes/"):
        answer = bytes(int(path[7:]))
    else:
        headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
        answer = json.dumps({
            "version": scope["http_version"], "method": scope["method"], "path": path, "headers": headers,
            "length": len(body), "sha256": hashlib.sha256(body).hexdigest(),
        }).encode()
    if path == "/trailers":
        trailers = [(b"x-checksum", hashlib.sha256(answer).hexdigest().encode())]
    elif status == 200:
        fields.append((b"content-length", str(len(answer)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields, "trailers": bool(trailers)})
    await send({"type": "http.response.body", "body": answer})
    if trailers:
        await send({"type": "http.response.trailers", "headers": trailers})
"""

# After ten requests it says GOAWAY, or closes.
NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
  log_format line '$server_protocol $request_method $uri $status'; access_log {directory}/access.log line;
  client_body_temp_path {directory}; keepalive_requests 10; client_max_body_size 10m;
  types {{}} default_type text/plain;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{secure} ssl http2;
    ssl_certificate {directory}/nginx.pem; ssl_certificate_key {directory}/nginx.key;
    location / {{ root {directory}; }}
    location /sink {{ return 200 "sunk\\n"; }}
  }}
}}
"""


def run(command: list[Any]) -> subprocess.CompletedProcess[bytes]:
    """Without what a sanitizer has this process load: the tools are nobody's code here, and curl hangs with it."""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, check=False, timeout=60, env=env)


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


class Apps(NamedTuple):
    upstreams: list[Upstream]
    secure: list[Upstream]  # with TLS
    directory: Path  # of nginx: its files and its log


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    directory: Path = tmp_path_factory.mktemp("apps")
    directory.chmod(0o755)
    (directory / "account.py").write_text(APP)
    authority = Authority("origins")
    for name in ("two-tls", "only-one"):
        authority.leaf(dns=[name]).write(directory, name)
    plain, two_tls, only_one = free_port(), free_port(), free_port()
    processes = []

    # By default hypercorn ends a connection after a thousand requests together with those under way.
    (directory / "any.toml").write_text("keep_alive_max_requests = 1000000\n")
    (directory / "only-one.toml").write_text('alpn_protocols = ["http/1.1"]\n')

    def hypercorn(name: str, port: int, *options: str, config: str = "any") -> None:
        command = ["python", "-m", "hypercorn", "--config", f"{config}.toml"]
        command += ["--bind", f"127.0.0.1:{port}", *options, "account:app"]
        processes.append((Process(command, directory, name=name, cwd=directory), port))

    def secured(name: str) -> list[str]:
        return ["--certfile", str(directory / f"{name}.pem"), "--keyfile", str(directory / f"{name}.key")]

    hypercorn("hypercorn", plain)
    hypercorn("hypercorn-tls", two_tls, *secured("two-tls"))
    hypercorn("hypercorn-one", only_one, *secured("only-one"), config="only-one")
    # The first two are one server, which tells the versions apart by their bytes.
    upstreams = [Upstream("one", [plain]), Upstream("two", [plain], "HTTP2")]
    secure = [
        Upstream("two-tls", [two_tls], "HTTP2", authority.pem),
        Upstream("only-one", [only_one], "HTTP", authority.pem, upgrade=True),
    ]
    if binary := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        upstreams.append(Upstream("nginx", [free_port()]))
        secure.append(Upstream("nginx-tls", [free_port()], "HTTP2", authority.pem))
        authority.leaf(dns=["nginx-tls"]).write(directory, "nginx")
        (directory / "file").write_bytes(bytes(range(256)) * 4096)
        (directory / "logs").mkdir()
        ports = {"plain": upstreams[-1].ports[0], "secure": secure[-1].ports[0]}
        (directory / "nginx.conf").write_text(NGINX.format(directory=directory, **ports))
        command = [
            "env",
            "-u",
            "LD_PRELOAD",
            binary,
            "-p",
            str(directory),
            "-c",
            str(directory / "nginx.conf"),
        ]
        processes.append((Process(command, directory, name="nginx"), ports["plain"]))
    try:
        for _, port in processes:
            wait_port(port, 30)
        yield Apps(upstreams, secure, directory)
    finally:
        for process, _ in processes:
            process.kill()
            print(process.report())


@pytest.fixture(scope="module")
def way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, apps: Apps
) -> Iterator[Way]:
    upstreams = apps.upstreams + (apps.secure if request.param == "edge" else [])
    with ways.opened(request.param, tmp_path_factory.mktemp("way"), upstreams) as way:
        yield way


# --- curl

VERSIONS = {
    "http/1.1": ["--http1.1"],
    "h2c": ["--http2-prior-knowledge"],
    "tls http/1.1": ["--http1.1"],
    "tls h2": ["--http2"],
}
SAID = {"--http1.1": "1.1", "--http2-prior-knowledge": "2", "--http2": "2"}
SERVICES = ["one", "two", "two-tls", "only-one"]


def cells(services: list[str], versions: Sequence[str] = ("",)) -> pytest.MarkDecorator:
    """Each version to each service on both ways; TLS to and from applications is an edge's."""
    found = [
        (way, version, service) for way in ("edge", "sidecars") for version in versions for service in services
        if way == "edge" or not (version.startswith("tls") or service in ("two-tls", "only-one", "nginx-tls"))
    ]  # fmt: skip
    if not any(versions):
        rows = [(way, service) for way, _, service in found]
        return pytest.mark.parametrize(("way", "service"), rows, indirect=["way"], scope="module")
    return pytest.mark.parametrize(("way", "version", "service"), found, indirect=["way"], scope="module")


EACH_TO_EACH = cells(SERVICES, list(VERSIONS))


class Got(NamedTuple):
    head: str  # with the trailers behind it
    body: bytes
    version: str

    @property
    def account(self) -> dict[str, Any]:
        account: dict[str, Any] = json.loads(self.body)
        return account


def curl(way: Way, version: str, service: str, *args: str, path: str = "/") -> Got:
    binary = tool("curl")
    port = way.secure if version.startswith("tls") else way.plain
    scheme = "https" if version.startswith("tls") else "http"
    where = ["--resolve", f"{service}:{port}:127.0.0.1"]
    if version.startswith("tls"):
        (way.directory / "edge-ca.pem").write_bytes(way.ca)
        where += ["--cacert", str(way.directory / "edge-ca.pem")]
    head, body = way.directory / "curl.head", way.directory / "curl.body"
    body.unlink(missing_ok=True)
    done = run(
        [binary, "-sS", "--noproxy", "*", "--max-time", "20", *where, *VERSIONS[version], *args, "-D", head,
         "-o", body, "-w", "%{http_version}", f"{scheme}://{service}:{port}{path}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == SAID[VERSIONS[version][0]]
    return Got(head.read_text().lower(), body.read_bytes() if body.exists() else b"", done.stdout.decode())


def spoken(service: str) -> str:
    """The version that the service's application is spoken to in."""
    return "1.1" if service in ("one", "only-one") else "2"


@EACH_TO_EACH
def test_curl_each_version_to_each(way: Way, version: str, service: str) -> None:
    got = curl(way, version, service, path="/where?q=1")
    assert " 200" in got.head.splitlines()[0]
    account = got.account
    assert account["version"] == spoken(service) and account["path"] == "/where"
    names = [name for name, _ in account["headers"]]
    assert names.count("host") <= 1 and "x-request-id" in names
    assert not {"connection", "keep-alive", "transfer-encoding", "upgrade", "http2-settings"} & set(names)


@EACH_TO_EACH
def test_curl_uploads(way: Way, version: str, service: str, tmp_path: Path) -> None:
    """Above a mebibyte curl expects a 100 first, and gets it from the application."""
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * 4 * 1200 + b"end")
    for more in ([], ["-H", "Expect: 100-continue"]):
        got = curl(way, version, service, "-T", str(file), *more, path="/up")
        assert got.account["length"] == file.stat().st_size
        assert got.account["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@EACH_TO_EACH
def test_curl_posts_without_a_length(way: Way, version: str, service: str, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"u" * 300_001)
    got = curl(way, version, service, "-X", "POST", "-H", "Transfer-Encoding: chunked", "-T", str(file))
    assert (got.account["method"], got.account["length"]) == ("POST", 300_001)


@EACH_TO_EACH
def test_curl_downloads(way: Way, version: str, service: str) -> None:
    assert curl(way, version, service, path="/bytes/3000001").body == bytes(3_000_001)


@EACH_TO_EACH
def test_curl_answers_without_a_body(way: Way, version: str, service: str) -> None:
    head = curl(way, version, service, "-I", path="/bytes/1234")
    assert " 200" in head.head.splitlines()[0] and "content-length: 1234" in head.head
    assert head.body.decode().lower().split() == head.head.split()  # all that curl shows is the head
    none = curl(way, version, service, path="/none")
    assert " 204" in none.head.splitlines()[0] and none.body == b"" and "transfer-encoding" not in none.head


@cells(["two", "two-tls"], list(VERSIONS))
def test_curl_trailers_of_answers(way: Way, version: str, service: str) -> None:
    got = curl(way, version, service, "-H", "TE: trailers", path="/trailers")
    assert f"x-checksum: {hashlib.sha256(got.body).hexdigest()}" in got.head


@ways.PROXIED
def test_curl_that_offers_the_old_upgrade_is_answered_in_http1(way: Way) -> None:
    """`Upgrade: h2c` of RFC 7540, which RFC 9113 has taken back: ignored, and not passed on."""
    tool("curl")
    for service in ("one", "two"):
        done = run(
            ["curl", "-sS", "--max-time", "20", "--http2", "-H", f"Host: {service}", "-w", "\n%{http_version}",
             f"http://127.0.0.1:{way.plain}/old"]
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        body, version = done.stdout.decode().rsplit("\n", 1)
        assert version == "1.1"
        assert not {"upgrade", "http2-settings"} & {name for name, _ in json.loads(body)["headers"]}


# --- nghttp and h2load


def nghttp(way: Way, service: str, *args: str, paths: tuple[str, ...] = ("/",)) -> str:
    urls = [f"http://127.0.0.1:{way.plain}{path}" for path in paths]
    command = [tool("nghttp"), "-t", "20", "-H", f":authority: {service}", *args, *urls]
    done = run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def h2load(port: int, url: str, *args: str) -> str:
    command = [tool("h2load"), f"--connect-to=127.0.0.1:{port}", *args, url]
    done = run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@ways.PROXIED
@pytest.mark.parametrize("service", ["one", "two"])
def test_nghttp_asks_for_several_at_once(way: Way, service: str) -> None:
    text = nghttp(way, service, "-n", "-v", paths=tuple(f"/{n}" for n in range(20)))
    assert len(re.findall(r":status: 200", text)) == 20
    assert "RST_STREAM" not in text and set(re.findall("error_code=([A-Z_]+)", text)) <= {"NO_ERROR"}


@ways.PROXIED
@pytest.mark.parametrize("service", ["one", "two"])
@pytest.mark.parametrize(
    "options", [[], ["--no-content-length"], ["--expect-continue"], ["--trailer", "x-sum: 1"]]
)
def test_nghttp_uploads(way: Way, service: str, options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(b"n" * 200_003)
    account = json.loads(nghttp(way, service, "-d", str(file), *options, paths=("/up",)))
    assert (account["method"], account["length"]) == ("POST", 200_003)


@cells(SERVICES, ["h2c", "tls h2"])
def test_h2load_loses_nothing(way: Way, version: str, service: str) -> None:
    scheme, port = ("https", way.secure) if version.startswith("tls") else ("http", way.plain)
    text = h2load(port, f"{scheme}://{service}:{port}/bytes/1000", "-n", "600", "-c", "4", "-m", "32")
    assert "600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout" in text, text
    assert "status codes: 600 2xx" in text


# --- httpx


@ways.EDGE
@pytest.mark.parametrize("service", SERVICES)
def test_httpx_over_one_connection(way: Way, service: str) -> None:
    import httpx

    async def calls() -> None:
        context = way.context("h2", "http/1.1")
        async with httpx.AsyncClient(http2=True, verify=context, timeout=20, trust_env=False) as client:

            async def call(n: int) -> tuple[str, dict[str, Any]]:
                answer = await client.post(
                    f"https://127.0.0.1:{way.secure}/{n}", content=b"x" * n * 100,
                    headers={"host": service}, extensions={"sni_hostname": service},
                )  # fmt: skip
                assert answer.status_code == 200
                return answer.http_version, answer.json()

            answers = await asyncio.gather(*(call(n) for n in range(100)))
            assert {version for version, _ in answers} == {"HTTP/2"}
            assert [(a["path"], a["length"]) for _, a in answers] == [(f"/{n}", n * 100) for n in range(100)]
            assert {a["version"] for _, a in answers} == {spoken(service)}

    assert way.near is not None
    before = way.near.stat("cx_total")
    asyncio.run(calls())
    assert way.near.stat("cx_total") == before + 1


# --- nginx


@cells(["nginx", "nginx-tls"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nginx_that_ends_its_connections_loses_nothing(
    way: Way, apps: Apps, service: str, method: str
) -> None:
    """A GOAWAY or a close after each ten requests, with 64 under way; each request arrives once."""
    tool("nginx")
    tag = f"/sink/{way.kind}/{service}/{method}"
    data = []
    if method == "POST":
        (way.directory / "body").write_bytes(b"b" * 5000)
        data = ["-d", str(way.directory / "body")]
    url = f"http://{service}:{way.plain}{tag}"
    text = h2load(way.plain, url, "-n", "1000", "-c", "2", "-m", "32", *data)
    assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in text, text
    assert "status codes: 1000 2xx" in text

    def lines() -> list[str]:
        logged = (apps.directory / "access.log").read_text().splitlines()
        return [line for line in logged if f" {tag} " in line]

    wait_for(lambda: len(lines()) >= 1000, what="nginx's log, which is written after the answer")
    version = "HTTP/2.0" if service == "nginx-tls" else "HTTP/1.1"
    assert lines() == [f"{version} {method} {tag} 200"] * 1000


@cells(["nginx", "nginx-tls"], ["http/1.1", "h2c"])
def test_nginx_serves_files(way: Way, apps: Apps, service: str, version: str) -> None:
    tool("nginx")
    whole = (apps.directory / "file").read_bytes()
    assert curl(way, version, service, path="/file").body == whole
    part = curl(way, version, service, "-r", "256-511", path="/file")
    assert " 206" in part.head.splitlines()[0] and part.body == bytes(range(256))
    assert " 404" in curl(way, version, service, path="/no-such-file").head.splitlines()[0]
