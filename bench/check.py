"""What must hold before anything is timed: status, body size, HTTP version, no service without a certificate.

Owns: the checks. Must not know: which proxy it asks. TLS is checked with the openssl command, see certs.py.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bench.certs import SERVER_NAME, Certs

TIMEOUT = 5.0
SMALL, LARGE = 1024, 1024 * 1024


class CheckFailed(Exception):
    """A proxy does not do what is to be measured."""


@dataclass(frozen=True)
class Answer:
    status_line: str
    headers: dict[str, str]
    body_size: int


def _read_answer(sock: socket.socket) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise CheckFailed(f"closed before a whole head: {data[:60]!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    size, wanted = len(rest), int(headers.get("content-length", "-1"))
    while size < wanted:
        more = sock.recv(1 << 20)
        if not more:
            break
        size += len(more)
    return Answer(lines[0], headers, size)


def get(port: int, path: str, host: str, headers: tuple[str, ...] = ()) -> Answer:
    more = "".join(f"{header}\r\n" for header in headers)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
        return _read_answer(sock)


def _expect(answer: Answer, size: int, wanted: str) -> None:
    if not answer.status_line.startswith("HTTP/1.1 200"):
        raise CheckFailed(f"answered {answer.status_line!r}")
    if answer.body_size != size:
        raise CheckFailed(f"body of {answer.body_size} bytes, not {size}")
    if answer.headers.get("connection", "").lower() == "close":
        raise CheckFailed("answered connection: close")
    seen = answer.headers.get("x-seen-version")
    if seen != wanted:
        raise CheckFailed(f"the backend was asked in {seen}")


def plain(port: int, path: str, host: str, seen: str = "HTTP/1.1") -> None:
    """seen: the version in which the backend is asked."""
    size = LARGE if path.endswith("/large") else SMALL
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        for _ in range(2):  # twice on one connection: keep-alive
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            _expect(_read_answer(sock), size, seen)


def prior_knowledge(port: int, path: str, host: str) -> None:
    """HTTP/2 without TLS from the first byte, by curl."""
    shown = "%{http_version} %{http_code} %{size_download}"
    url = f"http://{host}:{port}{path}"
    command = ["curl", "-s", "-o", "/dev/null", "-w", shown, "--http2-prior-knowledge", url]
    command += ["--resolve", f"{host}:{port}:127.0.0.1", "--max-time", str(TIMEOUT)]
    got = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False).stdout
    if got != f"2 200 {SMALL}":
        raise CheckFailed(f"answered {got!r} to HTTP/2 with prior knowledge")


def _s_client(port: int, host: str, *args: str) -> str:
    """What a TLS client gets for one request; Connection: close makes the server end the exchange."""
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{port}",
        "-servername",
        SERVER_NAME,
        "-ign_eof",
        *args,
    ]
    try:
        done = subprocess.run(
            command, input=request.encode(), capture_output=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode("latin-1")
    return done.stdout.decode("latin-1")


def _tls_facts(text: str) -> str:
    cipher = next(
        (line.strip() for line in text.splitlines() if line.startswith("New, TLS")), "no TLS session"
    )
    alpn = next((line.strip() for line in text.splitlines() if "ALPN" in line), "no ALPN")
    return f"{cipher.removeprefix('New, ')}; {alpn}"


def _peer_args(certs: Certs) -> list[str]:
    return ["-CAfile", str(certs.ca), "-verify_return_error", "-tls1_3", "-alpn", "h2,http/1.1"]


def tls_server(port: int, host: str, certs: Certs) -> str:
    """What TLS agreed with a server that asks for no certificate."""
    text = _s_client(port, host, *_peer_args(certs))
    if "HTTP/1.1 200" not in text and "ALPN protocol: h2" not in text:
        raise CheckFailed(f"no answer over TLS: {_tls_facts(text)}")
    return _tls_facts(text)


def mutual_inner(port: int, host: str, certs: Certs) -> str:
    """The second proxy of a pair serves with our client certificate, and only so; returns what TLS agreed."""
    ours = ["-cert", str(certs.client_cert), "-key", str(certs.client_key)]
    text = _s_client(port, host, *_peer_args(certs), *ours)
    if "HTTP/1.1 200" not in text and "ALPN protocol: h2" not in text:
        raise CheckFailed(f"the inner proxy refuses a good client certificate: {_tls_facts(text)}")
    refuses_strangers(port, host)
    return _tls_facts(text)


def refuses_strangers(port: int, host: str) -> None:
    """No answer without a client certificate, and none without TLS."""
    if "HTTP/1.1 200" in _s_client(port, host, "-tls1_3"):
        raise CheckFailed("the inner proxy serves without a client certificate")
    try:
        if " 200" in get(port, "/", host).status_line:
            raise CheckFailed("the inner proxy serves without TLS")
    except (OSError, UnicodeError):
        pass
    except CheckFailed as refused:
        if "serves" in str(refused):
            raise


Made = TypeVar("Made")


def until(attempt: Callable[[], Made], seconds: float, dead: Callable[[], str | None]) -> Made:
    """Tries until the attempt neither fails nor is refused; a process that ended ends it at once."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (OSError, CheckFailed) as problem:
            if ended := dead():
                raise CheckFailed(ended) from None
            if time.monotonic() > deadline:
                raise CheckFailed(f"not ready after {seconds:.0f} s: {problem}") from None
            time.sleep(0.05)


def listening(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
