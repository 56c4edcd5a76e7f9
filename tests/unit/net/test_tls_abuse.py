"""What an attacker or a broken peer may send: garbage, damaged handshakes, renegotiation; no leak or hang."""

from __future__ import annotations

import _ssl
import ctypes
import gc
import os
import random
import resource
import shutil
import socket
import subprocess
import time
from functools import partial

import pytest

from helpers import tls as T
from helpers.certs import Authority
from shim import tls_shim as tls

CA = Authority()
WEB, REVIEWS = CA.spiffe(), CA.spiffe("/ns/default/sa/reviews")
FATAL = (tls.ETLS, tls.ETLS_CERT, tls.ETLS_IDENTITY, tls.ERESET)


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert tls.live() == (0, 0)


def contexts():
    client = tls.Ctx(cert=REVIEWS.cert, key=REVIEWS.key, ca=CA.pem)
    return client, tls.Ctx(server=True, cert=WEB.cert, key=WEB.key, ca=CA.pem, alpn=[b"http/1.1"])


ALPN_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_ubyte),
    ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p,
)  # fmt: skip


def select_always(context, name):
    """Make a server select `name`, offered or not; what it gives back must live as long as the context."""
    set_callback = ctypes.CDLL(_ssl.__file__).SSL_CTX_set_alpn_select_cb
    set_callback.argtypes = (ctypes.c_void_p, ALPN_CALLBACK, ctypes.c_void_p)
    set_callback.restype = None

    def select(connection, out, size, offered, n, arg):
        out[0], size[0] = name, len(name)
        return 0

    kept = ALPN_CALLBACK(select)
    # _ssl's object is a PyObject with the SSL_CTX * behind its head.
    set_callback(ctypes.c_void_p.from_address(id(context) + object.__basicsize__), kept, None)
    return kept


@pytest.mark.parametrize(
    ("name", "code"), [(b"fastmesh", tls.ALPN_LINK), (b"h2", tls.ALPN_H2), (b"http/1.1", tls.ALPN_H1)]
)
def test_a_server_that_selects_what_was_not_offered(tmp_path, name, code):
    """RFC 7301 3.2 forbids it. Today's OpenSSL refuses it; with an older one it is no protocol of ours."""
    context = T.ssl_server(WEB.write(tmp_path, "web"))
    kept = select_always(context, name)
    for offered in (name, b"spdy"):
        with T.wires() as (a, b):
            c = tls.client(tls.Ctx(ca=CA.pem, alpn=[offered]), a.fileno())
            done = T.shake(c, T.Oracle(context, b, server=True))
            if offered == name:
                assert (done, c.alpn, c.speaks) == ((0, 0), name, code)
            elif done[0] == 0:
                assert (c.alpn, c.speaks) == (name, tls.ALPN_OTHER)
            else:
                assert (done[0], c.error, c.speaks) == (tls.ETLS, "bad extension", tls.ALPN_NONE)
            c.free()
    del kept


def relay(flights, source, to, mangle=None):
    """Carry what one end sent to the other, through `mangle`; what it was is kept."""
    try:
        data = source.recv(65536)
    except BlockingIOError:
        return
    flights.append(data)
    to.send(mangle(data) if mangle else data)


def cut_at(at, data):
    return data[:at]


def flip_at(at, data):
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def recorded():
    """The flights of a good handshake: ClientHello, the server's, the client's last."""
    client, server = contexts()
    near, far = socket.socketpair(), socket.socketpair()
    flights = []
    with near[0], near[1], far[0], far[1]:
        for sock in (*near, *far):
            sock.setblocking(False)
        c, s = tls.client(client, near[0].fileno()), tls.server([server], far[0].fileno())
        for _ in range(4):
            c.handshake()
            relay(flights, near[1], far[1])
            s.handshake()
            relay(flights, far[1], near[1])
        c.free()
        s.free()
    assert len(flights) == 3
    return flights


HELLO, SERVER_FLIGHT, LAST = recorded()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"x" * 37,  # SSLv2 hello
        b"\x16\x03\x01\xff\xff" + b"\x00" * 70000,  # a record that is too long
        b"\x16\x03\x01\x00\x00" * 100,  # empty records without an end
        b"\x15\x03\x01\x00\x02\x02\x28",  # an alert at once
        b"\x17\x03\x03\x00\x20" + b"x" * 32,  # data before the handshake
        b"\x00" * 1000,
        b"\xff" * 1000,
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + b"x" * 20000,  # a hello of 16 MB
    ],
)
def test_garbage(data):
    _, server = contexts()
    with T.wires() as (a, b):
        a.setblocking(True)
        a.sendall(data)
        s = tls.server([server], b.fileno())
        code = T.shake(s)[0]
        assert code in FATAL and s.error
        assert s.handshake() == code and s.read() == code and s.write(b"x") == code and s.shutdown() == 0


def test_random_garbage():
    rng = random.Random(20260801)
    _, server = contexts()
    for _ in range(300):
        with T.wires() as (a, b):
            a.send(b"\x16\x03\x01" * rng.randrange(2) + rng.randbytes(rng.randrange(1, 600)))
            a.shutdown(socket.SHUT_WR)
            s = tls.server([server], b.fileno())
            assert T.shake(s)[0] in FATAL


@pytest.mark.parametrize("end", ["fin", "silence"])
def test_client_hello_cut_at_every_byte(end):
    _, server = contexts()
    for cut in range(len(HELLO)):
        with T.wires() as (a, b):
            a.send(HELLO[:cut])
            if end == "fin":
                a.shutdown(socket.SHUT_WR)
            s = tls.server([server], b.fileno())
            code = T.shake(s, rounds=3)[0]
            assert code == (tls.ERESET if end == "fin" else tls.AGAIN), cut
            if end == "fin":
                assert s.error == "connection closed during the handshake"


def test_client_hello_damaged_at_every_byte():
    """Whatever one flipped byte makes of it, the server refuses, waits or goes on: it never crashes."""
    _, server = contexts()
    other = tls.Ctx(server=True, verify=False, cert=WEB.cert, key=WEB.key, hosts=[b"x"])
    outcomes = set()
    for at in range(len(HELLO)):
        for value in (0x00, 0xFF, HELLO[at] ^ 1):
            with T.wires() as (a, b):
                a.send(HELLO[:at] + bytes([value]) + HELLO[at + 1 :])
                s = tls.server([server, other], b.fileno())
                outcomes.add(T.shake(s, rounds=2)[0])
    assert {tls.ETLS, tls.AGAIN} <= outcomes <= {*FATAL, tls.AGAIN}


@pytest.mark.parametrize("side", ["server's flight", "client's last"])
def test_flights_cut_and_damaged(side):
    """A man in the middle cuts or flips at sampled bytes: both ends come to an end, never to a good one."""
    client, server = contexts()
    size = len(SERVER_FLIGHT if side == "server's flight" else LAST)
    for at in range(0, size - 1, 17):
        for mangle in (partial(cut_at, at), partial(flip_at, at)):
            near, far = socket.socketpair(), socket.socketpair()
            with near[0], near[1], far[0], far[1]:
                for sock in (*near, *far):
                    sock.setblocking(False)
                c, s = tls.client(client, near[0].fileno()), tls.server([server], far[0].fileno())
                flights = []
                c.handshake()
                relay(flights, near[1], far[1])
                s.handshake()
                relay(flights, far[1], near[1], mangle if side == "server's flight" else None)
                code = c.handshake()
                relay(flights, near[1], far[1], mangle if side != "server's flight" else None)
                near[1].shutdown(socket.SHUT_WR)
                far[1].shutdown(socket.SHUT_WR)
                if side == "server's flight":
                    assert code != 0 and T.shake(c)[0] in FATAL
                assert T.shake(s)[0] in FATAL
                c.free()
                s.free()


def test_records_damaged_after_the_handshake():
    client, server = contexts()
    with T.wires() as (a, b):
        c, s = tls.client(client, a.fileno()), tls.server([server], b.fileno())
        assert T.shake(c, s) == (0, 0)
        a.send(b"\x17\x03\x03\x00\x30" + os.urandom(48))
        assert T.read_some(s) == tls.ETLS and "bad record mac" in s.error
        assert T.read_some(c) == tls.ETLS  # it was told
        c.free()
        s.free()


def test_handshake_is_over_before_data():
    client, server = contexts()
    with T.wires() as (a, b):
        c, s = tls.client(client, a.fileno()), tls.server([server], b.fileno())
        assert c.read() == c.write(b"x") == s.read() == s.write(b"x") == tls.EINTERNAL
        assert c.shutdown() == 0 and c.pending == 0 and c.peer_id == "" and c.alpn == b""
        c.free()
        s.free()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl command")
def test_renegotiation_is_refused():
    """s_client asks for one with the line "R"."""
    _, server = contexts()
    plain = tls.Ctx(server=True, verify=False, cert=WEB.cert, key=WEB.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as probe:
            conn, _ = listener.accept()
            with conn:
                conn.setblocking(False)
                s = tls.server([plain], conn.fileno())
                deadline = time.monotonic() + 20
                while (code := s.handshake()) in T.BLOCKED and time.monotonic() < deadline:
                    os.sched_yield()
                assert code == 0
                probe.stdin.write(b"R\n")
                probe.stdin.flush()
                while (code := s.read()) in T.BLOCKED and time.monotonic() < deadline:
                    os.sched_yield()
                assert code in (tls.EOF, *FATAL)
            out = probe.communicate(timeout=20)[0]
        assert b"RENEGOTIATING" in out and b"no renegotiation" in out
    del server


def test_many_connections_leave_no_memory_behind():
    """Good ones, resumed ones, refused ones, abandoned ones: the resident size stands still."""
    client, server = contexts()
    foreign = Authority("foreign").spiffe()
    bad = tls.Ctx(cert=foreign.cert, key=foreign.key, ca=CA.pem)

    def round_of(n):
        for i in range(n):
            key = i % 2 * (i % 7 + 1)
            with T.ours(bad if i % 4 == 3 else client, [server, server], session_key=key) as (c, s):
                if i % 4 == 2:
                    c.handshake()
                    s.handshake()
                    continue
                T.shake(c, s)
                if i % 4 != 3:
                    T.echo(c, s)
        gc.collect()

    round_of(300)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    round_of(900)
    # KiB; one leaked SSL each would be 6 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600
