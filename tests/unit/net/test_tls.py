"""net/tls: handshakes, data, ends of connections; against itself and against Python's ssl in both roles."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import struct

import pytest

from helpers import tls as T
from helpers.certs import Authority
from shim import tls_shim as tls

CA = Authority()
WEB = CA.spiffe("/ns/default/sa/web")
REVIEWS = CA.spiffe("/ns/default/sa/reviews")
WEB_ID = "spiffe://mesh.local/ns/default/sa/web"
REVIEWS_ID = "spiffe://mesh.local/ns/default/sa/reviews"


def server_ctx(**options):
    defaults = {"cert": WEB.cert, "key": WEB.key, "ca": CA.pem, "alpn": [b"http/1.1"]}
    return tls.Ctx(server=True, **{**defaults, **options})


def client_ctx(**options):
    defaults = {"cert": REVIEWS.cert, "key": REVIEWS.key, "ca": CA.pem, "alpn": [b"http/1.1"]}
    return tls.Ctx(**{**defaults, **options})


@pytest.fixture
def files(tmp_path):
    return WEB.write(tmp_path, "web"), REVIEWS.write(tmp_path, "reviews")


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert tls.live() == (0, 0)


def test_both_sides_ours():
    with T.ours(client_ctx(), [server_ctx()], sans=[WEB_ID.encode()]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert (c.peer_id, s.peer_id) == (WEB_ID, REVIEWS_ID)
        assert c.peer_cert and s.peer_cert
        assert c.alpn == s.alpn == b"http/1.1"
        assert c.version == s.version == 0x304
        assert not c.resumed and not s.resumed
        assert (c.error, s.error) == ("", "")
        T.echo(c, s)
        assert c.peer_id_in(len(WEB_ID) - 1) == "" and c.peer_id_in(len(WEB_ID)) == WEB_ID


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_python_client(version, files):
    context = T.ssl_client(CA.pem, cert=files[1], alpn=["h3", "http/1.1"])
    context.minimum_version = context.maximum_version = version
    with T.wires() as (a, b):
        s = tls.server([server_ctx()], b.fileno())
        c = T.Oracle(context, a, server=False)
        assert T.shake(c, s) == (0, 0)
        assert s.peer_id == REVIEWS_ID
        assert s.version == {"TLSv1.2": 0x303, "TLSv1.3": 0x304}[c.s.version()]
        assert c.s.selected_alpn_protocol() == "http/1.1" and s.alpn == b"http/1.1"
        T.echo(c, s)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_python_server(version, files):
    context = T.ssl_server(files[0], ca=CA.pem, alpn=["http/1.1"])
    context.minimum_version = context.maximum_version = version
    with T.wires() as (a, b):
        c = tls.client(client_ctx(), a.fileno(), sans=[WEB_ID.encode()])
        s = T.Oracle(context, b, server=True)
        assert T.shake(c, s) == (0, 0)
        assert c.peer_id == WEB_ID and c.alpn == b"http/1.1"
        T.echo(c, s)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa"])
def test_key_kinds(kind):
    leaf = CA.leaf(uris=[WEB_ID], kind=kind)
    with T.ours(client_ctx(), [server_ctx(cert=leaf.cert, key=leaf.key)]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        T.echo(c, s)


def test_a_chain_of_intermediates():
    issuing = CA.intermediate().intermediate("issuing")
    leaf = issuing.spiffe()
    with T.ours(client_ctx(), [server_ctx(cert=leaf.cert, key=leaf.key)]) as (c, s):
        assert T.shake(c, s) == (0, 0)
    with T.ours(client_ctx(ca=issuing.pem), [server_ctx(cert=leaf.cert, key=leaf.key)]) as (c, s):
        assert T.shake(c, s) == (0, 0)  # an intermediate as the anchor


def test_byte_by_byte():
    """Each side sees the other's bytes one at a time: never blocked, never confused."""
    near, far = socket.socketpair(), socket.socketpair()
    for sock in (*near, *far):
        sock.setblocking(False)
    with near[0], near[1], far[0], far[1]:
        c, s = tls.client(client_ctx(), near[0].fileno()), tls.server([server_ctx()], far[0].fileno())
        codes = [tls.AGAIN, tls.AGAIN]
        steps = 0
        queues = {near[1]: b"", far[1]: b""}
        while any(code in T.BLOCKED for code in codes):
            steps += 1
            assert steps < 20000
            for i, end in enumerate((c, s)):
                if codes[i] in T.BLOCKED:
                    codes[i] = end.handshake()
            for source, to in ((near[1], far[1]), (far[1], near[1])):
                with contextlib.suppress(BlockingIOError):
                    queues[source] += source.recv(65536)
                to.send(queues[source][:1])
                queues[source] = queues[source][1:]
        assert codes == [0, 0] and steps > 1000
        c.free()
        s.free()


@pytest.mark.parametrize("size", [1, 100, 16384, 16385, 70000])
def test_sizes(size):
    data = os.urandom(size)
    with T.ours(client_ctx(), [server_ctx()]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        got = []
        T.write_all(c, data, s, collect=got)
        while sum(map(len, got)) < size:
            part = s.read(1000)
            assert isinstance(part, bytes)
            got.append(part)
        assert b"".join(got) == data
        assert s.pending == 0 and s.read() == tls.AGAIN


@pytest.mark.parametrize("oracle", [False, True])
def test_ten_megabytes_both_ways_at_once(oracle, files):
    size = 10_000_000
    sent = os.urandom(1_000_000) * 10
    with T.wires() as (a, b):
        for sock in (a, b):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30000)
        s = tls.server([server_ctx()], b.fileno())
        context = T.ssl_client(CA.pem, cert=files[1])
        c = T.Oracle(context, a, server=False) if oracle else tls.client(client_ctx(), a.fileno())
        assert T.shake(c, s) == (0, 0)
        at, got, tried, blocked = [0, 0], [bytearray(), bytearray()], [0, 0], 0
        ends = (c, s)
        step = 0
        while min(len(got[0]), len(got[1])) < size:
            step += 1
            assert step < 100000
            for i, end in enumerate(ends):
                # after a refusal: the same bytes and more, as the contract says
                want = max(1 + step * 7919 % 200_000, tried[i])
                if at[i] < size:
                    rc = end.write(sent[at[i] : at[i] + want])
                    blocked += rc in T.BLOCKED
                    assert rc > 0 or rc in T.BLOCKED, (rc, end.error)
                    at[i] += max(rc, 0)
                    tried[i] = want - max(rc, 0)
                data = end.read(1 + step * 104729 % 70_000)
                if isinstance(data, bytes):
                    got[i] += data
                else:
                    assert data in T.BLOCKED, (data, end.error)
        assert at == [size, size] and blocked
        assert got[0] == got[1] == sent
        s.free()


def test_close_notify_is_eof_and_fin_is_not(files):
    context = T.ssl_client(CA.pem, cert=files[1])
    for orderly in (True, False):
        with T.wires() as (a, b):
            s = tls.server([server_ctx()], b.fileno())
            c = T.Oracle(context, a, server=False)
            assert T.shake(c, s) == (0, 0)
            T.write_all(c, b"last words")
            if orderly:
                c.close_notify()
            c.s.close()
            assert s.read() == b"last words"
            assert s.read() == (tls.EOF if orderly else tls.ERESET)
            assert s.read() == (tls.EOF if orderly else tls.ERESET)
            assert s.error == ("" if orderly else "connection closed without close_notify")


def test_cut_in_the_middle_of_a_record():
    with T.wires() as (a, b):
        c, s = tls.client(client_ctx(), a.fileno()), tls.server([server_ctx()], b.fileno())
        assert T.shake(c, s) == (0, 0)
        a.send(b"\x17\x03\x03\x40\x00half")
        a.close()
        assert T.read_some(s) == tls.ERESET
        assert s.error == "connection closed without close_notify"
        s.free()
        c.free()


def test_reset(files):
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as a:
        b, _ = listener.accept()
        with b:
            a.setblocking(False)
            b.setblocking(False)
            c, s = tls.client(client_ctx(), a.fileno()), tls.server([server_ctx()], b.fileno())
            T.shake(c, s)
            a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            a.close()
            assert s.read() == tls.ERESET and s.error == "connection reset"
            assert s.write(b"x") == tls.ERESET
            assert s.shutdown() == 0


def test_write_to_a_closed_peer_raises_no_signal():
    with T.wires() as (a, b):
        c, s = tls.client(client_ctx(), a.fileno()), tls.server([server_ctx()], b.fileno())
        assert T.shake(c, s) == (0, 0)
        b.close()
        codes = [c.write(b"x" * 20000), c.write(b"x" * 20000)]
        assert codes[1] == tls.ERESET


def test_our_shutdown_is_seen_and_sent_once(files):
    context = T.ssl_client(CA.pem, cert=files[1])
    with T.wires() as (a, b):
        s = tls.server([server_ctx()], b.fileno())
        c = T.Oracle(context, a, server=False)
        assert T.shake(c, s) == (0, 0)
        assert s.write(b"bye") == 3
        assert s.shutdown() == 0 and s.shutdown() == 0
        assert s.write(b"x") == tls.EINTERNAL
        assert c.read() == b"bye"
        assert T.read_some(c) in (tls.EOF, b"")


def test_data_with_the_last_flight_is_pending():
    """A client that speaks at once: its data comes with its Finished, and no further event would tell."""
    with T.ours(client_ctx(), [server_ctx()]) as (c, s):
        assert c.handshake() == tls.AGAIN and s.handshake() == tls.AGAIN
        assert c.handshake() == 0
        assert c.write(b"GET /") == 5
        assert s.handshake() == 0
        assert s.pending > 0
        assert s.read() == b"GET /"
        assert s.pending == 0
