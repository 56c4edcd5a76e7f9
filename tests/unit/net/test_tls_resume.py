"""Resumption: tickets across workers, sessions by key and policy, no way past the identity of the peer."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import socket
import ssl

import pytest

from helpers import tls as T
from helpers import wait_for
from helpers.certs import Authority
from shim import tls_shim as tls

CA = Authority()
OTHER = Authority("other root")
WEB_ID = b"spiffe://mesh.local/ns/default/sa/web"
REVIEWS_ID = b"spiffe://mesh.local/ns/default/sa/reviews"
WEB, REVIEWS = CA.spiffe("/ns/default/sa/web"), CA.spiffe("/ns/default/sa/reviews")
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert tls.live() == (0, 0)


def server_ctx(leaf=WEB, **options):
    return tls.Ctx(server=True, **{"cert": leaf.cert, "key": leaf.key, "ca": CA.pem, **options})


def client_ctx(leaf=REVIEWS, **options):
    return tls.Ctx(**{"cert": leaf.cert, "key": leaf.key, "ca": CA.pem, **options})


def visit(client, servers, **options):
    """One connection with an exchange, so that the ticket arrives; (resumed?, the server's peer)."""
    options = {"sans": [WEB_ID], "session_key": 1, **options}
    with T.ours(client, servers, **options) as (c, s):
        assert T.shake(c, s) == (0, 0), (c.error, s.error)
        T.echo(c, s)
        assert c.resumed == s.resumed
        assert c.peer_id and c.peer_cert
        return c.resumed, s.peer_id


def test_many_times_and_with_the_identity():
    client, server = client_ctx(), server_ctx(trust_domain=b"mesh.local")
    seen = [visit(client, [server]) for _ in range(4)]
    assert seen == [(False, REVIEWS_ID.decode())] + [(True, REVIEWS_ID.decode())] * 3


def test_at_another_worker_and_after_a_restart():
    client = client_ctx()
    assert not visit(client, [server_ctx()])[0]
    assert visit(client, [server_ctx(ident=7)])[0]  # another process makes the same keys of the same PEM


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": CA.spiffe("/ns/default/sa/web")},
        {"ca": CA.pem + OTHER.pem},
        {"trust_domain": b"mesh.local"},
        {"verify": False},
        {"min_version": 0x304},
        {"alpn": [b"http/1.1"]},
        {"tickets": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_certificate_or_policy_ends_it(change):
    client = client_ctx()
    assert not visit(client, [server_ctx()])[0]
    assert not visit(client, [server_ctx(**change)])[0]


def test_tickets_can_be_off():
    client, server = client_ctx(), server_ctx(tickets=False)
    assert [visit(client, [server])[0] for _ in range(2)] == [False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"session_key": 2},
        {"session_key": 0},
        {"sni": b"web"},
        {"sans": [WEB_ID, REVIEWS_ID]},
        {"sans": None},
    ],
    ids=str,
)
def test_a_session_is_for_its_key_and_policy_only(options):
    client, server = client_ctx(), server_ctx()
    assert not visit(client, [server])[0]
    assert not visit(client, [server], **options)[0]
    assert visit(client, [server])[0]


def test_a_session_does_not_help_an_identity_that_is_not_expected():
    client, server = client_ctx(), server_ctx()
    assert not visit(client, [server])[0]
    with T.ours(client, [server], sans=[REVIEWS_ID], session_key=1) as (c, s):
        assert T.shake(c, s)[0] == tls.ETLS_IDENTITY
    assert visit(client, [server])[0]


def test_a_session_of_one_context_does_not_help_another_identity_of_ours():
    """The client's certificate changes: the new context starts without sessions."""
    server = server_ctx()
    first, second = client_ctx(), client_ctx(CA.spiffe("/ns/default/sa/ratings"))
    assert not visit(first, [server])[0]
    assert visit(second, [server]) == (False, "spiffe://mesh.local/ns/default/sa/ratings")


def test_tickets_do_not_cross_sni_contexts():
    """The listener's contexts share one key in OpenSSL: the policy in the session must keep them apart."""
    strict = server_ctx(hosts=[b"strict"], trust_domain=b"mesh.local", ident=1)
    loose = server_ctx(hosts=[b"loose"], verify=False, ident=2)
    client = client_ctx()
    both = [loose, strict]
    with T.ours(client, both, sni=b"loose", sans=[WEB_ID], session_key=1) as (c, s):
        assert T.shake(c, s) == (0, 0)
        T.echo(c, s)
        assert s.context_key == 2 and not s.peer_cert
    for name, key, resumed in ((b"strict", 1, False), (b"strict", 1, True), (b"loose", 2, True)):
        with T.ours(client, both, sni=name, sans=[WEB_ID], session_key=1) as (c, s):
            assert T.shake(c, s) == (0, 0)
            T.echo(c, s)
            assert (s.context_key, s.resumed) == (key, resumed)
            assert s.peer_id == (REVIEWS_ID.decode() if key == 1 else "")


def test_a_ticket_presented_under_another_name(tmp_path):
    """A client that offers the ticket of the open name at the strict one must still show its certificate."""
    strict = server_ctx(hosts=[b"strict"], ident=1)
    loose = server_ctx(hosts=[b"loose"], verify=False, ident=2)
    context = T.ssl_client(CA.pem)
    with T.wires() as (a, b):
        s = tls.server([loose, strict], b.fileno())
        c = T.Oracle(context, a, server=False, name="loose")
        assert T.shake(c, s) == (0, 0)
        T.echo(c, s)
        session = c.s.session
        assert session.has_ticket
    with T.wires() as (a, b):
        s = tls.server([loose, strict], b.fileno())
        c = T.Oracle(context, a, server=False, name="strict", session=session)
        assert T.shake(c, s)[1] == tls.ETLS_CERT
        assert s.error == "peer did not return a certificate"


def test_python_client_resumes_at_another_worker(tmp_path):
    context = T.ssl_client(CA.pem, cert=REVIEWS.write(tmp_path))
    session = None
    for expected in (False, True):
        with T.wires() as (a, b):
            s = tls.server([server_ctx()], b.fileno())
            c = T.Oracle(context, a, server=False, session=session)
            assert T.shake(c, s) == (0, 0)
            T.echo(c, s)
            session = c.s.session
            assert c.s.session_reused == expected == s.resumed
            assert s.peer_id == REVIEWS_ID.decode()


def test_a_client_that_uses_each_ticket_once_always_has_the_next(tmp_path):
    """Browsers do; so a public listener renews with every resumption."""
    context = T.ssl_client(CA.pem)
    server = server_ctx(verify=False)
    session = None
    for i in range(4):
        with T.wires() as (a, b):
            s = tls.server([server], b.fileno())
            c = T.Oracle(context, a, server=False, session=session)
            assert T.shake(c, s) == (0, 0)
            T.echo(c, s)
            assert s.resumed == (i > 0)
            assert c.s.session.id != (session.id if session else b"")
            session = c.s.session


def test_tls12_clients_get_no_ticket():
    """It would hold the master secret under a key that follows from the private key."""
    context = T.ssl_client(CA.pem)
    context.maximum_version = TLS12
    session = None
    for _ in range(2):
        with T.wires() as (a, b):
            s = tls.server([server_ctx(verify=False)], b.fileno())
            c = T.Oracle(context, a, server=False, session=session)
            assert T.shake(c, s) == (0, 0)
            T.echo(c, s)
            session = c.s.session
            assert not s.resumed and not (session and session.has_ticket)


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_our_client_at_a_python_server(version, tmp_path):
    context = T.ssl_server(WEB.write(tmp_path))
    context.maximum_version = version
    client = client_ctx()
    for expected in (False, True, True):
        with T.wires() as (a, b):
            c = tls.client(client, a.fileno(), sans=[WEB_ID], session_key=5)
            s = T.Oracle(context, b, server=True)
            assert T.shake(c, s) == (0, 0)
            T.echo(c, s)
            assert c.resumed == expected == s.s.session_reused
            assert c.peer_id == WEB_ID.decode()


def short_lived(uri):
    leaf = CA.leaf(uris=[uri.decode()], not_after=datetime.timedelta(seconds=2))
    return leaf, leaf.certificate.not_valid_after_utc


def expired(at):
    return lambda: datetime.datetime.now(datetime.UTC) > at + datetime.timedelta(milliseconds=50)


def test_a_session_ends_with_the_certificate_of_the_client():
    leaf, at = short_lived(REVIEWS_ID)
    client, server = client_ctx(leaf), server_ctx()
    assert [visit(client, [server])[0] for _ in range(2)] == [False, True]
    wait_for(expired(at))
    with T.ours(client, [server], sans=[WEB_ID], session_key=1) as (c, s):
        assert T.shake(c, s) == (0, tls.ETLS_CERT)
        assert s.error == "certificate has expired" and not s.resumed


def test_a_session_ends_with_the_certificate_of_the_server():
    leaf, at = short_lived(WEB_ID)
    client, server = client_ctx(), server_ctx(leaf)
    assert [visit(client, [server])[0] for _ in range(2)] == [False, True]
    wait_for(expired(at))
    with T.ours(client, [server], sans=[WEB_ID], session_key=1) as (c, s):
        assert T.shake(c, s)[0] == tls.ETLS_CERT
        assert c.error == "certificate has expired" and not c.resumed


def test_the_cache_is_bounded_and_keeps_the_last_used():
    client, server = client_ctx(), server_ctx()
    for key in range(1, tls.SESSIONS * 2):
        visit(client, [server], session_key=key)
    assert visit(client, [server], session_key=tls.SESSIONS * 2 - 1)[0]
    kept = sum(visit(client, [server], session_key=key)[0] for key in range(tls.SESSIONS * 2, 0, -8))
    assert 0 < kept < tls.SESSIONS


def test_a_forged_ticket_is_a_full_handshake(tmp_path):
    """Tickets of a server with other keys: unknown, so nothing is resumed and nothing fails."""
    client = client_ctx()
    assert not visit(client, [server_ctx()])[0]
    assert not visit(client, [server_ctx(CA.leaf(uris=[WEB_ID.decode()]))])[0]


def test_a_ticket_too_large_to_wait_goes_at_once():
    """A certificate with many names makes a large ticket: the first answer must not need room for it."""
    large = CA.leaf(uris=[REVIEWS_ID.decode()], dns=[f"{'n' * 40}{i}.example.com" for i in range(160)])
    client, server = client_ctx(large), server_ctx()
    assert len(large.cert) > 12000
    assert [visit(client, [server])[0] for _ in range(3)] == [False, True, True]
    with T.ours(client, [server], sans=[WEB_ID]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert c.read() == tls.AGAIN  # only the ticket has come
        T.echo(c, s, b"z" * 60000)


def worker(listener, visits):
    """A forked worker: its own context, made of the same PEM; says who came and whether it was resumed."""
    ctx = server_ctx(trust_domain=b"mesh.local")
    for _ in range(visits):
        sock, _ = listener.accept()
        with sock:
            end = tls.server([ctx], sock.fileno())  # a blocking socket: each call waits
            while end.handshake() != 0:
                pass
            assert end.read(1) == b"?"
            end.write(f"{end.resumed} {end.peer_id}".encode())
            end.free()


def test_forked_workers_take_up_each_others_sessions():
    client, answers, pids = client_ctx(), [], []
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        for listener in (first, second):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    worker(listener, 2)
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        try:
            for listener in (first, second, second, first):
                with socket.create_connection(listener.getsockname(), timeout=10) as sock:
                    sock.setblocking(True)
                    end = tls.client(client, sock.fileno(), sans=[WEB_ID], session_key=3)
                    while end.handshake() != 0:
                        pass
                    end.write(b"?")
                    answers.append(end.read(200).decode())
                    end.free()
        except BaseException:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0, 0]
    assert answers == [f"{resumed} {REVIEWS_ID.decode()}" for resumed in (False, True, True, True)]
