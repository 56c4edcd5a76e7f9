"""ClientHellos: as OpenSSL makes them, cut into records, and what OpenSSL's server makes of bytes."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.certs import Authority


def made(
    name: str | None = "one.example",
    alpn: Sequence[str] = (),
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
    ciphers: str = "",
) -> bytes:
    """The first flight of a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version, context.maximum_version = versions
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if ciphers:
        context.set_ciphers(ciphers)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def some() -> list[bytes]:
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    names = [None, "a", "one.example", "x.y.z.two.example", "a_b-c.example", "m" * 63 + ".example"]
    out = [made(name, alpn) for name in names for alpn in ((), ("h2", "http/1.1"), ("fastmesh-tcp",))]
    out += [made("one.example", versions=versions) for versions in ((v12, v12), (v13, v13))]
    out += [made("one.example", ciphers="ECDHE-RSA-AES128-GCM-SHA256")]
    whole = [record(message(out[6]), size) for size in (1000, 100, 50, 7)]
    return out + whole


def message(hello: bytes) -> bytes:
    """The handshake message in a hello that is one record."""
    assert hello[0] == 22 and int.from_bytes(hello[3:5], "big") == len(hello) - 5
    return hello[5:]


def record(handshake: bytes, size: int = 16384) -> bytes:
    """In records of so many bytes."""
    return b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
        for part in (handshake[i : i + size] for i in range(0, len(handshake), size))
    )


@cache
def _server() -> tuple[ssl.SSLContext, list[str | None]]:
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        files = Authority().leaf(dns=["one.example"]).write(Path(folder))
        context.load_cert_chain(*files)
    context.sni_callback = lambda tls, name, own: asked.append(name)
    return context, asked


def openssl(data: bytes) -> str | bool | None:
    """Which name OpenSSL's server would serve; None: none is asked for; False: it refuses; True: it waits
    for more."""
    context, asked = _server()
    asked.clear()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(data)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        # it has answered (ServerHello, or a retry), or waits for the rest of the hello
        return asked[0] if asked else (None if outgoing.pending else True)
    except (ssl.SSLError, OSError):
        return False
    return False
