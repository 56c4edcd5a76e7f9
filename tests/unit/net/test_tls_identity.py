"""Who may speak to whom: chains, dates, SPIFFE rules, names; on both sides, with the alerts."""

from __future__ import annotations

import datetime
import gc

import pytest

from helpers import tls as T
from helpers.certs import Authority
from shim import tls_shim as tls

CA = Authority()
FOREIGN = Authority("foreign root")
DENIED = b"spiffe://mesh.local/ns/default/sa/web"
HOUR = datetime.timedelta(hours=1)
WEB_ID = "spiffe://mesh.local/ns/default/sa/web"
REVIEWS_ID = "spiffe://mesh.local/ns/default/sa/reviews"
WEB, REVIEWS = CA.leaf(uris=[WEB_ID]), CA.leaf(uris=[REVIEWS_ID])
LONG_ID = "spiffe://mesh.local/" + "x" * 2029


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert tls.live() == (0, 0)


def server_ctx(leaf=WEB, **options):
    return tls.Ctx(server=True, **{"cert": leaf.cert, "key": leaf.key, "ca": CA.pem, **options})


def client_ctx(leaf=REVIEWS, **options):
    pair = {"cert": leaf.cert, "key": leaf.key} if leaf else {}
    return tls.Ctx(**{**pair, "ca": CA.pem, **options})


# What is wrong with a peer's certificate, the code that its judge gives, and the reason in the log.
BAD = {
    "foreign CA": (FOREIGN.leaf(uris=[WEB_ID]), tls.ETLS_CERT, "unable to get local issuer certificate"),
    "expired": (
        CA.leaf(uris=[WEB_ID], not_before=-2 * HOUR, not_after=-HOUR),
        tls.ETLS_CERT,
        "certificate has expired",
    ),
    "not yet valid": (
        CA.leaf(uris=[WEB_ID], not_before=HOUR, not_after=2 * HOUR),
        tls.ETLS_CERT,
        "certificate is not yet valid",
    ),
    "no SAN": (CA.leaf(), tls.ETLS_IDENTITY, "the certificate has no SPIFFE ID"),
    "DNS SAN only": (CA.leaf(dns=["web"]), tls.ETLS_IDENTITY, "the certificate has no SPIFFE ID"),
    "URI but not SPIFFE": (
        CA.leaf(uris=["https://mesh.local/ns/default/sa/web"]),
        tls.ETLS_IDENTITY,
        "the certificate has no SPIFFE ID",
    ),
    "two URI SANs": (
        CA.leaf(uris=[WEB_ID, REVIEWS_ID]),
        tls.ETLS_IDENTITY,
        "the certificate has more than one URI SAN",
    ),
    "a second URI of another kind": (
        CA.leaf(uris=["https://mesh.local/", WEB_ID]),
        tls.ETLS_IDENTITY,
        "the certificate has more than one URI SAN",
    ),
    "CA as leaf": (
        CA.leaf(uris=[WEB_ID], ca=True),
        tls.ETLS_IDENTITY,
        "a CA certificate is not an identity",
    ),
    "other trust domain": (
        CA.spiffe("/ns/default/sa/web", "mesh.local.evil"),
        tls.ETLS_IDENTITY,
        "the peer's trust domain is not ours",
    ),
    "no path": (
        CA.leaf(uris=["spiffe://mesh.local"]),
        tls.ETLS_IDENTITY,
        "the certificate's SPIFFE ID is malformed",
    ),
    "empty path": (
        CA.leaf(uris=["spiffe://mesh.local/"]),
        tls.ETLS_IDENTITY,
        "the certificate's SPIFFE ID is malformed",
    ),
    "too long": (CA.leaf(uris=[LONG_ID]), tls.ETLS_IDENTITY, "the certificate's SPIFFE ID is malformed"),
    "scheme in capitals": (
        CA.leaf(uris=["SPIFFE://mesh.local/ns/default/sa/web"]),
        tls.ETLS_IDENTITY,
        "the certificate's SPIFFE ID is malformed",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_client_is_refused(case):
    leaf, code, why = BAD[case]
    with T.ours(client_ctx(leaf), [server_ctx(trust_domain=b"mesh.local")]) as (c, s):
        assert T.shake(c, s) == (0, code)  # TLS 1.3: the client is done before it is judged
        assert s.error == why
        assert s.peer_id == ""
        assert s.handshake() == s.read() == s.write(b"x") == code
        assert T.read_some(c) == tls.ETLS and "alert" in c.error


@pytest.mark.parametrize("case", BAD)
def test_a_bad_server_is_refused(case):
    leaf, code, why = BAD[case]
    with T.ours(client_ctx(trust_domain=b"mesh.local"), [server_ctx(leaf)]) as (c, s):
        codes = T.shake(c, s)
        assert codes[0] == code and c.error == why
        assert codes[1] == tls.ETLS and "alert" in s.error


@pytest.mark.parametrize(
    ("leaf", "alert"),
    [
        (BAD["foreign CA"][0], "unknown ca"),
        (BAD["expired"][0], "certificate expired"),
        (BAD["two URI SANs"][0], "bad certificate"),
    ],
)
def test_the_alert_says_what_is_wrong(leaf, alert, tmp_path):
    with T.wires() as (a, b):
        s = tls.server([server_ctx(trust_domain=b"mesh.local")], b.fileno())
        c = T.Oracle(T.ssl_client(CA.pem, cert=leaf.write(tmp_path)), a, server=False)
        assert T.shake(c, s)[1] < tls.ETLS
        assert T.read_some(c) == tls.ETLS
        assert alert in c.error.lower().replace("_", " ")


def test_no_client_certificate():
    with T.ours(client_ctx(None), [server_ctx()]) as (c, s):
        assert T.shake(c, s) == (0, tls.ETLS_CERT)
        assert s.error == "peer did not return a certificate"
        assert T.read_some(c) == tls.ETLS


def test_a_server_that_asks_for_none_sees_none():
    with T.ours(client_ctx(), [server_ctx(verify=False)]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert not s.peer_cert and s.peer_id == ""


@pytest.mark.parametrize(
    ("uris", "dns", "sans", "ok"),
    [
        ([WEB_ID], [], [WEB_ID], True),
        ([WEB_ID], [], [REVIEWS_ID, WEB_ID], True),
        ([WEB_ID], [], [REVIEWS_ID], False),
        ([WEB_ID], [], [], False),
        ([WEB_ID], [], [WEB_ID + "x"], False),
        ([WEB_ID], [], [WEB_ID[:-1]], False),
        ([WEB_ID], [], [WEB_ID.upper()], False),
        ([], ["web.example.com"], ["web.example.com"], True),
        ([], ["web.example.com"], ["WEB.example.com"], True),
        ([], ["web.example.com"], ["example.com"], False),
        ([], ["*.example.com"], ["web.example.com"], False),
        ([], ["*.example.com"], ["*.example.com"], True),
        (["https://example.com/x"], [], ["https://example.com/x"], True),
        (["https://example.com/x"], [], ["https://example.com/"], False),
        ([], [WEB_ID[9:19]], [WEB_ID], False),
        ([], [], ["leaf"], False),  # the subject's name counts for nothing
    ],
)
def test_expected_names(uris, dns, sans, ok):
    leaf = CA.leaf(uris=uris, dns=dns)
    with T.ours(client_ctx(), [server_ctx(leaf)], sans=[san.encode() for san in sans]) as (c, s):
        codes = T.shake(c, s)
        assert codes[0] == (0 if ok else tls.ETLS_IDENTITY)
        if not ok:
            assert c.error == "the peer's identity is not one that is expected here"


@pytest.mark.parametrize(
    ("names", "host", "ok"),
    [
        ({"dns": ["web.example.com"]}, "web.example.com", True),
        ({"dns": ["web.example.com"]}, "WEB.example.COM", True),
        ({"dns": ["*.example.com"]}, "web.example.com", True),
        ({"dns": ["*.example.com"]}, "a.web.example.com", False),
        ({"dns": ["*.example.com"]}, "example.com", False),
        ({"dns": ["w*.example.com"]}, "web.example.com", False),
        ({"dns": ["other.example.com"]}, "web.example.com", False),
        ({"name": "web.example.com"}, "web.example.com", False),
        ({"ips": ["127.0.0.1"]}, "127.0.0.1", True),
        ({"ips": ["127.0.0.2"]}, "127.0.0.1", False),
        ({"dns": ["web.example.com"]}, "web.example.com" + "x" * 300, False),
    ],
)
def test_host_names(names, host, ok):
    leaf = CA.leaf(**names)
    with T.ours(client_ctx(), [server_ctx(leaf)], host=host.encode()) as (c, s):
        codes = T.shake(c, s)
        assert codes[0] == (0 if ok else tls.ETLS_IDENTITY)
        if not ok:
            assert c.error == "the certificate is not for the host name"


def test_certificate_for_another_purpose():
    """A server-only certificate is no client's, and the other way round."""
    with T.ours(client_ctx(CA.leaf(uris=[REVIEWS_ID], client=False)), [server_ctx()]) as (c, s):
        assert T.shake(c, s) == (0, tls.ETLS_CERT) and "purpose" in s.error
    with T.ours(client_ctx(), [server_ctx(CA.leaf(uris=[WEB_ID], server=False))]) as (c, s):
        assert T.shake(c, s)[0] == tls.ETLS_CERT and "purpose" in c.error


def test_a_client_that_verifies_nothing():
    with T.ours(client_ctx(ca=b"", verify=False), [server_ctx(FOREIGN.leaf(dns=["x"]))]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert c.peer_cert and c.peer_id == ""
    # names are checked even then, when they are asked for
    leaf = FOREIGN.leaf(dns=["x"])
    with T.ours(client_ctx(ca=b"", verify=False), [server_ctx(leaf)], sans=[b"y"]) as (c, s):
        assert T.shake(c, s)[0] == tls.ETLS_IDENTITY


def test_two_roots_during_a_rotation():
    both = CA.pem + FOREIGN.pem
    old, new = CA.leaf(uris=[WEB_ID]), FOREIGN.leaf(uris=[REVIEWS_ID])
    with T.ours(client_ctx(new, ca=both), [server_ctx(old, ca=both)], sans=[WEB_ID.encode()]) as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert (c.peer_id, s.peer_id) == (WEB_ID, REVIEWS_ID)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("spiffe://mesh.local/a", "mesh.local"),
        ("spiffe://m/ns/default/sa/A-b_c.d", "m"),
        ("spiffe://m_1-x.y/...", "m_1-x.y"),
        ("spiffe://mesh.local", None),
        ("spiffe://mesh.local/", None),
        ("spiffe:///a", None),
        ("spiffe://mesh.local//a", None),
        ("spiffe://mesh.local/a/", None),
        ("spiffe://mesh.local/a//b", None),
        ("spiffe://mesh.local/./a", None),
        ("spiffe://mesh.local/a/..", None),
        ("spiffe://mesh.local/../a", None),
        ("spiffe://Mesh.local/a", None),
        ("spiffe://mesh.local:8443/a", None),
        ("spiffe://user@mesh.local/a", None),
        ("spiffe://mesh.local/a?b", None),
        ("spiffe://mesh.local/a#b", None),
        ("spiffe://mesh.local/a%20b", None),
        ("spiffe://mesh.local/a\0b", None),
        ("spiffe://mesh.local\0/a", None),
        ("spiffe://mesh.local/ä", None),
        ("Spiffe://mesh.local/a", None),
        ("https://mesh.local/a", None),
        ("spiffe:/", None),
        ("", None),
        ("spiffe://" + "d" * 255 + "/a", "d" * 255),
        ("spiffe://" + "d" * 256 + "/a", None),
    ],
)
def test_spiffe_ids(text, domain):
    assert tls.spiffe(text.encode()) == (domain.encode() if domain else None)


@pytest.mark.parametrize(
    ("denied", "refused"),
    [
        (b"", False),
        (DENIED + b"\n", True),
        (b"spiffe://mesh.local/ns/a/sa/b\n" + DENIED + b"\n", True),
        (DENIED + b"\n" + b"spiffe://mesh.local/ns/a/sa/b\n", True),
        (DENIED, False),  # no line end: not an entry
        (DENIED + b"x\n", False),
        (DENIED[:-1] + b"\n", False),
        (b"\n\n", False),
    ],
)
def test_identities_that_are_denied(denied, refused):
    """On either side, also where another context of the other side would let it in."""
    leaf = CA.spiffe()
    with T.ours(client_ctx(leaf), [server_ctx(trust_domain=b"mesh.local", denied=denied)]) as (c, s):
        assert T.shake(c, s) == ((0, tls.ETLS_IDENTITY) if refused else (0, 0))
        assert s.error == ("the peer's identity is denied" if refused else "")
    with T.ours(client_ctx(trust_domain=b"mesh.local", denied=denied), [server_ctx(leaf)]) as (c, s):
        assert T.shake(c, s)[0] == (tls.ETLS_IDENTITY if refused else 0)
