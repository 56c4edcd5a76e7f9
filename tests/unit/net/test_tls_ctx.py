"""net/tls_ctx: PEM that can and cannot be used, the choice by SNI, ALPN, protocol versions and ciphers."""

from __future__ import annotations

import gc
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from helpers import tls as T
from helpers.certs import Authority, new_key
from shim import tls_shim as tls

CA = Authority()
WEB, OTHER = CA.spiffe(), CA.spiffe()
ENCRYPTED = new_key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
)
NO_KEY = "private key: no PEM block of a key that can be read (encrypted or damaged ones cannot)"
JUNK = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture(autouse=True)
def nothing_leaks():
    yield
    gc.collect()
    assert tls.live() == (0, 0)


def server_ctx(**options):
    return tls.Ctx(server=True, **{"cert": WEB.cert, "key": WEB.key, "verify": False, **options})


# --- PEM


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cert": b"", "key": b""}, "certificate: a server needs one"),
        ({"key": b""}, "certificate: certificate and private key go together"),
        ({"cert": b"not PEM"}, "certificate: no PEM block of a certificate"),
        ({"cert": WEB.key}, "certificate: no PEM block of a certificate"),
        ({"cert": JUNK}, "certificate: not enough data"),
        ({"cert": WEB.cert[:-60]}, "certificate: bad end line"),
        ({"cert": WEB.cert + JUNK}, "certificate: not enough data"),
        ({"key": b"not PEM"}, NO_KEY),
        ({"key": WEB.cert}, NO_KEY),
        ({"key": ENCRYPTED}, NO_KEY),
        ({"key": OTHER.key}, "private key: does not belong to the certificate"),
        ({"ca": b"not PEM", "verify": True}, "CA bundle: no PEM block of a certificate"),
        ({"ca": CA.pem + JUNK, "verify": True}, "CA bundle: not enough data"),
        ({"ca": b"", "verify": True}, "CA bundle: client certificates cannot be verified without one"),
        ({"cert": b"x" * (5 << 20)}, "certificate: too large"),
        ({"min_version": 0x302}, "min_version: must be TLS 1.2 or TLS 1.3"),
        ({"alpn": b"\x05h2"}, "ALPN: not a list of length-prefixed names"),
        ({"alpn": b"\x00"}, "ALPN: not a list of length-prefixed names"),
    ],
)
def test_what_is_refused_and_why(options, why):
    with pytest.raises(tls.ConfigError) as info:
        server_ctx(**options)
    code, reason = info.value.args
    assert code == -43
    if why.endswith("not enough data"):  # OpenSSL's words for junk differ between releases
        assert reason.startswith(why.split(":")[0] + ": ")
    else:
        assert reason == why


@pytest.mark.parametrize("cut", range(0, len(WEB.key), 13))
def test_damaged_keys_never_load(cut):
    damaged = WEB.key[:cut] + b"!" + WEB.key[cut + 1 :]
    try:
        server_ctx(key=damaged)
    except tls.ConfigError as error:
        assert error.args[1].startswith("private key: ")
    else:
        assert cut < 5 or cut > len(WEB.key) - 30 or damaged[cut - 1 : cut] == b"\n"


def test_text_around_the_blocks_is_fine():
    server_ctx(cert=b"# leaf\n" + WEB.cert + b"\n# end\n", key=b"# key\n" + WEB.key)
    server_ctx(ca=CA.pem + CA.pem, verify=True)  # twice the same CA


def test_references():
    ctx = server_ctx(ident=42)
    assert (ctx.key, ctx.refs) == (42, 1)
    with T.wires() as (_, b):
        conn = tls.server([ctx, ctx, ctx], b.fileno())
        assert ctx.refs == 5  # one in use, three candidates
        conn.free()
    assert ctx.refs == 1


def test_a_context_outlives_its_owner_while_connections_use_it():
    """Rotation: the old generation is dropped in the middle of handshakes and connections."""
    first, second = server_ctx(ident=1), server_ctx(ident=2, hosts=[b"web"])
    client = tls.Ctx(ca=CA.pem)
    with T.wires() as (a, b):
        c = tls.client(client, a.fileno(), sni=b"web", session_key=1)
        s = tls.server([first, second], b.fileno())
        first.close()
        second.close()
        client.close()
        assert T.shake(c, s) == (0, 0)
        assert s.context_key == 2
        assert tls.live() == (2, 2)  # the chosen one and the client's: the default is gone
        T.echo(c, s)
        c.free()
        s.free()


# --- SNI


@pytest.mark.parametrize(
    ("name", "index"),
    [
        (b"a.example.com", 1),
        (b"A.EXAMPLE.com", 1),
        (b"b.example.com", 2),
        (b"x.deep.example.com", 3),
        (b"y.x.deep.example.com", 3),
        (b"deep.example.com", 2),
        (b"example.com", 4),
        (b"xexample.com", 4),
        (b".example.com", 4),
        (b"a.example.com.", 4),
        (b"", 4),
    ],
)
def test_choice_by_name(name, index):
    contexts = [
        server_ctx(hosts=[b"default.test"]),
        server_ctx(hosts=[b"z.example.com", b"a.example.com"]),
        server_ctx(hosts=[b"*.example.com"]),
        server_ctx(hosts=[b"*.deep.example.com"]),
        server_ctx(),
    ]
    assert tls.choose(contexts, name) == index
    assert tls.choose(contexts[:4], b"nobody.test") == 0


def test_sni_brings_certificate_policy_and_alpn(tmp_path):
    public, private = CA.leaf(dns=["public.test"]), CA.leaf(dns=["private.test"])
    contexts = [
        server_ctx(cert=public.cert, key=public.key, hosts=[b"public.test"], alpn=[b"http/1.1"], ident=1),
        server_ctx(
            cert=private.cert,
            key=private.key,
            hosts=[b"private.test"],
            alpn=[b"h2"],
            ident=2,
            verify=True,
            ca=CA.pem,
            min_version=0x304,
        ),
    ]
    context = T.ssl_client(CA.pem, alpn=["http/1.1", "h2"])
    for name, key, alpn, ok in (("public.test", 1, "http/1.1", True), ("private.test", 2, "h2", False)):
        with T.wires() as (a, b):
            s = tls.server(contexts, b.fileno())
            c = T.Oracle(context, a, server=False, name=name)
            codes = T.shake(c, s)
            assert codes == ((0, 0) if ok else (0, tls.ETLS_CERT))
            assert s.context_key == key
            assert c.s.selected_alpn_protocol() == alpn
            names = [value for _, value in c.s.getpeercert()["subjectAltName"]]
            assert names == [name]
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for name, ok in (("public.test", True), ("private.test", False)):
        with T.wires() as (a, b):
            s = tls.server(contexts, b.fileno())
            codes = T.shake(T.Oracle(context, a, server=False, name=name), s)
            assert (codes[1] == 0) == ok


@pytest.mark.parametrize(
    ("name", "sent"),
    [("web.test", True), ("a.1b", True), ("127.0.0.1", False), ("::1", False), ("fe80::a", False)],
)
def test_an_address_is_not_sent_as_a_name(name, sent, tmp_path):
    seen = []
    context = T.ssl_server(WEB.write(tmp_path))
    context.sni_callback = lambda _sock, server_name, _context: seen.append(server_name)
    with T.wires() as (a, b):
        c = tls.client(tls.Ctx(ca=CA.pem), a.fileno(), sni=name.encode())
        assert T.shake(c, T.Oracle(context, b, server=True)) == (0, 0)
    assert seen == [name if sent else None]


# --- ALPN


@pytest.mark.parametrize(
    ("ours", "theirs", "chosen"),
    [
        ([b"h2", b"http/1.1"], ["http/1.1", "h2"], "h2"),
        ([b"http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        ([b"http/1.1"], [], None),
        ([], ["http/1.1"], None),
        ([b"http/1.1"], ["http/1.10", "http/1"], False),
    ],
)
def test_alpn(ours, theirs, chosen):
    with T.wires() as (a, b):
        s = tls.server([server_ctx(alpn=ours)], b.fileno())
        c = T.Oracle(T.ssl_client(CA.pem, alpn=theirs), a, server=False)
        codes = T.shake(c, s)
        if chosen is False:
            assert codes == (tls.ETLS, tls.ETLS)
            assert "no application protocol" in c.error.lower().replace("_", " ")
            return
        assert codes == (0, 0)
        assert c.s.selected_alpn_protocol() == chosen
        assert s.alpn == (chosen or "").encode()


@pytest.mark.parametrize(
    ("ours", "offered", "not_offered"),
    [
        ([b"fastmesh", b"h2"], [b"fastmesh", b"h2"], [b"", b"h", b"h2h", b"fastmes", b"\x02h2", b"http/1.1"]),
        ([b"h2"], [b"h2"], [b"http/1.1", b"fastmesh", b"H2"]),
        ([], [], [b"", b"h2"]),
        ([b"x" * 255, b"h2"], [b"x" * 255, b"h2"], [b"x" * 254, b"x" * 256]),
    ],
)
def test_what_a_context_offers(ours, offered, not_offered):
    context = server_ctx(alpn=ours)
    assert [name for name in offered + not_offered if context.offers(name)] == offered


@pytest.mark.parametrize(
    ("ours", "theirs", "speaks"),
    [
        ([b"fastmesh", b"h2", b"http/1.1"], [b"fastmesh", b"h2", b"http/1.1"], tls.ALPN_LINK),
        ([b"fastmesh", b"h2", b"http/1.1"], [b"http/1.1", b"h2"], tls.ALPN_H2),
        ([b"fastmesh", b"h2", b"http/1.1"], [b"http/1.1"], tls.ALPN_H1),
        ([b"fastmesh", b"h2", b"http/1.1"], [], tls.ALPN_NONE),
        ([], [b"h2"], tls.ALPN_NONE),
        ([b"h3", b"FASTMESH"], [b"FASTMESH"], tls.ALPN_OTHER),
        ([b"h3"], [b"h3"], tls.ALPN_OTHER),
    ],
)
def test_both_ends_know_what_was_agreed(ours, theirs, speaks):
    with T.ours(tls.Ctx(ca=CA.pem, alpn=theirs), [server_ctx(alpn=ours)]) as (c, s):
        assert (c.speaks, s.speaks) == (tls.ALPN_NONE, tls.ALPN_NONE)
        assert T.shake(c, s) == (0, 0)
        assert (c.speaks, s.speaks) == (speaks, speaks)


def test_the_context_that_sni_chose_says_what_is_spoken():
    """The listener's first context lists no link, the one for the name does."""
    servers = [server_ctx(alpn=[b"h2"]), server_ctx(alpn=[b"fastmesh"], hosts=[b"link.test"])]
    with T.ours(tls.Ctx(ca=CA.pem, alpn=[b"fastmesh", b"h2"]), servers, sni=b"link.test") as (c, s):
        assert T.shake(c, s) == (0, 0)
        assert (c.speaks, s.speaks) == (tls.ALPN_LINK, tls.ALPN_LINK)


# --- versions and ciphers


def loose(context):
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(version, tmp_path):
    context = loose(T.ssl_client())
    context.maximum_version = version
    with T.wires() as (a, b):
        s = tls.server([server_ctx()], b.fileno())
        assert T.shake(T.Oracle(context, a, server=False), s)[1] == tls.ETLS
        assert "protocol" in s.error
    context = loose(T.ssl_server(WEB.write(tmp_path)))
    context.maximum_version = version
    with T.wires() as (a, b):
        c = tls.client(tls.Ctx(ca=CA.pem), a.fileno())
        assert T.shake(c, T.Oracle(context, b, server=True))[0] == tls.ETLS


def test_tls13_only():
    context = T.ssl_client(CA.pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with T.wires() as (a, b):
        s = tls.server([server_ctx(min_version=0x304)], b.fileno())
        assert T.shake(T.Oracle(context, a, server=False), s)[1] == tls.ETLS


@pytest.mark.parametrize(
    "cipher",
    ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-GCM-SHA256"],
)
def test_ciphers_without_forward_secrecy_or_aead_are_refused(cipher):
    leaf = CA.leaf(dns=["x"], kind="rsa")
    context = T.ssl_client(CA.pem)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with T.wires() as (a, b):
        s = tls.server([server_ctx(cert=leaf.cert, key=leaf.key)], b.fileno())
        assert T.shake(T.Oracle(context, a, server=False), s)[1] == tls.ETLS
        assert s.error == "no shared cipher"


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_tls12_with_forward_secrecy_works(kind):
    leaf = CA.leaf(dns=["x"], kind=kind)
    context = T.ssl_client(CA.pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with T.wires() as (a, b):
        s = tls.server([server_ctx(cert=leaf.cert, key=leaf.key)], b.fileno())
        c = T.Oracle(context, a, server=False)
        assert T.shake(c, s) == (0, 0)
        assert c.s.cipher()[0] == ("ECDHE-ECDSA" if kind == "p256" else "ECDHE-RSA") + "-AES128-GCM-SHA256"


def test_tls13_cipher_is_the_cheapest():
    with T.wires() as (a, b):
        s = tls.server([server_ctx()], b.fileno())
        c = T.Oracle(T.ssl_client(CA.pem), a, server=False)
        assert T.shake(c, s) == (0, 0)
        assert c.s.cipher()[0] == "TLS_AES_128_GCM_SHA256"
