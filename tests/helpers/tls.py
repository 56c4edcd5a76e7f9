"""Pairs of TLS ends over a socketpair, driven in one thread: ours (tls_shim) and Python's ssl as the oracle.

Every end has the same methods: handshake, read, write, each giving a code (0 done, <0 tls_shim.*) or bytes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shim import tls_shim as tls

BLOCKED = (tls.AGAIN, tls.WANT_WRITE)


class Oracle:
    """Python's ssl with the methods of our Conn: `error` says what the peer's alert or our check was."""

    def __init__(
        self,
        context: ssl.SSLContext,
        sock: socket.socket,
        *,
        server: bool,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.s = context.wrap_socket(
            sock,
            server_side=server,
            do_handshake_on_connect=False,
            server_hostname=name,
            suppress_ragged_eofs=False,
            session=session,
        )
        self.error = ""

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except ssl.SSLWantReadError:
            return tls.AGAIN
        except ssl.SSLWantWriteError:
            return tls.WANT_WRITE
        except ssl.SSLZeroReturnError:
            return tls.EOF
        except (ssl.SSLError, ConnectionError) as error:
            self.error = str(error)
            return tls.ETLS

    def handshake(self) -> int:
        return self._try(self.s.do_handshake) or 0

    def read(self, n: int = 65536) -> Any:
        return self._try(self.s.recv, n)

    def write(self, data: bytes) -> int:
        return int(self._try(self.s.send, data))

    def close_notify(self) -> None:
        self._try(self.s.unwrap)


def shake(*ends: Any, rounds: int = 60) -> tuple[int, ...]:
    """Drive handshakes until each is done or has failed; their codes."""
    codes = [tls.AGAIN] * len(ends)
    for _ in range(rounds):
        for i, end in enumerate(ends):
            if codes[i] in BLOCKED:
                codes[i] = end.handshake()
        if not any(code in BLOCKED for code in codes):
            break
    return tuple(codes)


def write_all(end: Any, data: bytes, *others: Any, collect: list[bytes] | None = None) -> None:
    """Write data as its caller must: on with the rest after a part; `others` are read meanwhile."""
    at = 0
    for _ in range(100000):
        if at == len(data):
            return
        rc = end.write(data[at:])
        if rc > 0:
            at += rc
            continue
        assert rc in BLOCKED, (rc, end.error)
        for other in others:
            got = other.read()
            if isinstance(got, bytes) and collect is not None:
                collect.append(got)
    raise AssertionError(f"stuck after {at} of {len(data)} bytes")


def read_some(end: Any, n: int = 65536) -> Any:
    """Bytes or the final code; blocked means nothing came."""
    for _ in range(20):
        got = end.read(n)
        if got not in BLOCKED:
            return got
    return tls.AGAIN


def echo(a: Any, b: Any, data: bytes = b"ping") -> None:
    """A few bytes each way."""
    write_all(a, data)
    assert read_some(b) == data
    write_all(b, data[::-1])
    assert read_some(a) == data[::-1]


@contextmanager
def wires() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        b.setblocking(False)
        yield a, b


@contextmanager
def ours(client: tls.Ctx, servers: Sequence[tls.Ctx], **options: Any) -> Iterator[tuple[Any, Any]]:
    """Our client and our server; freed at the end."""
    with wires() as (a, b):
        c, s = tls.client(client, a.fileno(), **options), tls.server(servers, b.fileno())
        try:
            yield c, s
        finally:
            c.free()
            s.free()


def ssl_client(
    ca: bytes = b"", *, cert: tuple[Path, Path] | None = None, alpn: Sequence[str] = ()
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if ca:
        context.load_verify_locations(cadata=ca.decode())
    else:
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*cert)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def ssl_server(cert: tuple[Path, Path], *, ca: bytes = b"", alpn: Sequence[str] = ()) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*cert)
    if ca:
        context.load_verify_locations(cadata=ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
