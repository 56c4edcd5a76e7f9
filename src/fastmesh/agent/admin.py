"""The admin endpoint's server: HTTP/1.1, one small request a connection, on the agent's loop.

Owns its connections. Knows nothing of what is shown (views.py). Everything is bounded: connections, the size
of a request, the time it may take. Requests that a browser sends for some web page are refused: this port
answers operators and programs.
"""

from __future__ import annotations

import _socket

from fastmesh.agent.dns import is_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastmesh.agent.loop import Loop

    # (method, path, query) -> (status, content type, body, Allow header or "")
    Handler = Callable[[str, str, dict[str, str]], tuple[int, str, bytes, str]]

# Whoever scrapes uses one or two; more are a mistake, or somebody who keeps them open.
MAX_CONNECTIONS = 64
REQUEST_BYTES = 8192
REQUEST_SECONDS = 10.0

REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
PLAIN = "text/plain; charset=utf-8"
_HEX = "0123456789abcdefABCDEF"


class BadRequest(Exception):
    """What is wrong with a request, and the status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def unquoted(text: str) -> str:
    """%XX and + of a query decoded."""
    parts = text.replace("+", " ").split("%")
    out = parts[0].encode()
    for part in parts[1:]:
        if len(part) < 2 or part[0] not in _HEX or part[1] not in _HEX:
            raise BadRequest(400, "a bad escape in the query")
        out += bytes([int(part[:2], 16)]) + part[2:].encode()
    return out.decode("utf-8", "replace")


def is_local(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def names_this(host: str) -> bool:
    """Is it an address, or a name without a dot (localhost, a container's)? Any other can be made to lead
    here by whoever owns it."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return "." not in name.rstrip(".") or is_ip(name)


def parse(head: bytes, local: bool = False) -> tuple[str, str, dict[str, str]]:
    """(method, path, query) of a request head; BadRequest. `local`: this port is bound to loopback: a request
    for another host name comes of a web page whose name was pointed at this machine (DNS rebinding)."""
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequest(400, "not ASCII") from None
    request = lines[0].split(" ")
    if len(request) != 3 or not request[0].isalpha() or not request[2].startswith("HTTP/1."):
        raise BadRequest(400, "not an HTTP/1 request line")
    method, target, _ = request
    if not target.startswith("/"):
        raise BadRequest(400, "the target must be a path")
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "a bad header line")
        # Only browsers send these; a page of another site must not drain a proxy on somebody's machine.
        if name.lower() == "origin" or (
            name.lower() == "sec-fetch-site" and value.strip() not in ("none", "same-origin")
        ):
            raise BadRequest(403, "requests of web pages are refused")
        if local and name.lower() == "host" and not names_this(value.strip()):
            raise BadRequest(403, "the host must be an address or localhost, not some other name")
    path, _, raw = target.partition("?")
    query = {}
    for pair in raw.split("&") if raw else ():
        key, _, value = pair.partition("=")
        query[unquoted(key)] = unquoted(value)
    return method, path, query


class Admin:
    """Accepts on a listening descriptor (kept by the arbiter) and answers."""

    def __init__(self, loop: Loop, fd: int, handler: Handler) -> None:
        self._loop = loop
        self._handler = handler
        self._listener = _socket.socket(fileno=fd)
        self._local = is_local(str(self._listener.getsockname()[0]))
        self._open = 0
        loop.add_reader(fd, self._accept)

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return  # gone before it was taken, or no descriptor left: the next readable event tries again
        sock = _socket.socket(fileno=fd)
        if self._open >= MAX_CONNECTIONS:
            sock.close()
            return
        self._open += 1
        Connection(self._loop, sock, self._handler, self._closed, self._local)

    def _closed(self) -> None:
        self._open -= 1


class Connection:
    """One request and its answer."""

    def __init__(
        self, loop: Loop, sock: _socket.socket, handler: Handler, closed: Callable[[], None], local: bool
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._handler = handler
        self._on_closed = closed
        self._local = local
        self._in = b""
        self._out = memoryview(b"")
        self._timer = loop.call_later(REQUEST_SECONDS, self._close)
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._in += data
        head, end, _ = self._in.partition(b"\r\n\r\n")
        if len(head) > REQUEST_BYTES:
            self._send(431, PLAIN, b"the request is too large\n")
        elif end:
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        method = "GET"
        try:
            method, path, query = parse(head, self._local)
            status, kind, body, allow = self._handler(method, path, query)
        except BadRequest as error:
            status, kind, body, allow = error.status, PLAIN, f"{error}\n".encode(), ""
        self._send(status, kind, body, allow, method == "HEAD")

    def _send(self, status: int, kind: str, body: bytes, allow: str = "", head_only: bool = False) -> None:
        head = [
            f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}",
            f"content-type: {kind}",
            f"content-length: {len(body)}",
            "cache-control: no-cache, max-age=0",
            "x-content-type-options: nosniff",
            "connection: close",
        ]
        if allow:
            head.append(f"allow: {allow}")
        self._loop.remove_reader(self._sock.fileno())
        self._out = memoryview("\r\n".join([*head, "", ""]).encode() + (b"" if head_only else body))
        self._loop.add_writer(self._sock.fileno(), self._writable)
        self._writable()

    def _writable(self) -> None:
        try:
            while self._out:
                self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        # What is still on its way in would turn the close into a reset that overtakes the answer.
        self._loop.remove_writer(self._sock.fileno())
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._loop.add_reader(self._sock.fileno(), self._discard)

    def _discard(self) -> None:
        try:
            if self._sock.recv(REQUEST_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close()

    def _close(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._on_closed()
