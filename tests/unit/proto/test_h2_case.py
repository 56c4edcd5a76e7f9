"""proto/h2_case: an HTTP/1 head keeps its version and its names' case over the link, and nowhere else."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim.case_shim import MOST, Link, value_of
from shim.h1_shim import header_id

BAD, TRAILER = -20, -29
FACTS = "x-fastmesh-h1"
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x.test")]
OK = [(":status", "200")]


def plain(fields, response: bool = False) -> bytes:
    """A block by an encoder that is not ours."""
    return hpack.Encoder().encode((OK if response else GET) + list(fields))


def code(name: str) -> str:
    """The code of a name, letter by letter."""
    if name == name.lower():
        return "l"
    if name == "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-")):
        return "t"
    if name == name.upper():
        return "u"
    bits = sum(1 << i for i, c in enumerate(name) if c.isupper())
    return "x" + "".join(f"{bits >> at & 15:x}" for at in range(0, len(name), 4))


def value(names: list[str], minor: int = 1) -> str:
    codes = "".join(map(code, names))
    return str(minor) + (codes if set(codes) != {"l"} and len(codes) < MOST else "")


@pytest.mark.parametrize(
    ("names", "made"),
    [
        ([], "1"),
        (["host"], "1"),
        (["host", "accept", "x-y"], "1"),
        (["Host", "accept"], "1tl"),
        (["Host", "User-Agent", "Accept", "X-Request-Id"], "1tttt"),
        (["HOST", "ACCEPT-ENCODING", "DNT"], "1uuu"),
        (["Host", "X", "x", "X-", "-X", "-x", "--X"], "1ttltttl"[:4] + "ttlt"),
        (["Host", "ETag"], "1tx3"),
        (["Host", "WWW-Authenticate"], "1tx7100"),
        (["Host", "X-Request-ID"], "1tx50c"),
        (["Host", "aB"], "1tx2"),
        (["Host", "abcdE"], "1tx01"),
        (["Host", "ABCDEFGHIJKLMNOPQRSTUVWXyZ"], "1txffffff2"),
        (["Host", "1st-Thing", "_Private", "x_Y"], "1ttx20x4"),
        (["Host", "X-B3-TraceId", "SOAPAction"], "1tx524xf10"),
        (["accept", "Host"], "1tl"),  # host first, wherever it was
        (["Host", "Connection", "TE", "Upgrade", "Keep-Alive", "ACCEPT"], "1tu"),
    ],
)
def test_the_value_of_some_names(names: list[str], made: str):
    assert value_of([name.encode() for name in names]).decode() == made


def test_a_response_has_no_host():
    assert value_of([b"Server", b"ETag", b"Host"], 0, True) == b"0tx3"


TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
COMMON = "accept user-agent x-request-id etag content-type set-cookie cookie www-authenticate x-b3-traceid b3"
HOP = {
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    FACTS,
    "host",
    "content-length",
    "expect",
}


@st.composite
def cased(draw: st.DrawFn) -> str:
    name = draw(
        st.one_of(
            st.text(TOKEN, min_size=1, max_size=40),
            st.text("abc-", min_size=1, max_size=40),
            st.sampled_from(COMMON.split()),
        )
    )
    how = draw(st.sampled_from(["as it is", "title", "lower", "upper", "any"]))
    if how == "title":
        return "-".join(part.capitalize() for part in name.split("-"))
    if how == "any":
        return "".join(c.upper() if draw(st.booleans()) else c.lower() for c in name)
    return {"lower": name.lower(), "upper": name.upper()}.get(how, name)


NAMES = st.lists(cased(), max_size=30)


@given(st.lists(cased(), max_size=90), st.integers(0, 1))
def test_the_value_of_any_names(names: list[str], minor: int):
    names = [name for name in names if name.lower() not in HOP]
    names = ["Host", *names]
    assert value_of([name.encode() for name in names], minor).decode() == value(names, minor)


def end_to_end(name: str) -> bool:
    # '_' for '-' in one of our names is taken off by hygiene
    dashed = name.lower().replace("_", "-")
    return dashed not in HOP and ("_" not in name or not header_id(dashed.encode()))


FIELD_VALUE = st.text("abcXYZ019 ,;=%", max_size=30).map(str.strip)


@given(st.data(), NAMES, cased(), st.integers(0, 1), st.booleans())
def test_a_request_survives_the_link(
    data: st.DataObject, names: list[str], host: str, minor: int, keep: bool
):
    names = [name for name in names if end_to_end(name)]
    host = data.draw(st.sampled_from(["Host", "host", "HOST", "hOsT"]))
    fields = [(name, data.draw(FIELD_VALUE)) for name in names]
    if data.draw(st.booleans()):
        fields.insert(
            data.draw(st.integers(0, len(fields))),
            (data.draw(st.sampled_from(["Content-Length", "content-length", "Content-length"])), "3"),
        )
    at = data.draw(st.integers(0, len(fields)))
    lines = [*fields[:at], (host, "x.test"), *fields[at:], ("Connection", "close"), ("X-FastMesh-H1", "0uuu")]
    head = f"POST /a HTTP/1.{minor}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n"

    want = [(host, "x.test")]
    jar = [v for n, v in fields if n.lower() == "cookie"]
    for name, text in fields:
        if name.lower() != "cookie":
            want.append((name, text))
        elif jar:
            want.append((name, "; ".join(v for v in jar if v)))  # a lone one is kept, empty or not
            jar = []
    link = Link()
    for _ in range(3):  # the third time most of it comes out of the table
        rc, got = link.decode(link.encode(head.encode()), keep=keep)
        assert rc == 0
        assert got["minor"] == minor
        assert [(n.decode(), v.decode()) for n, v, _ in got["headers"]] == want
        assert [i for _, _, i in got["headers"]] == [header_id(n.encode()) for n, _ in want]


@given(st.data(), NAMES, st.integers(0, 1), st.sampled_from([103, 200, 404]))
def test_a_response_survives_the_link(data: st.DataObject, names: list[str], minor: int, status: int):
    fields = [(name, data.draw(FIELD_VALUE)) for name in names if end_to_end(name)]
    head = f"HTTP/1.{minor} {status} So\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "\r\n"
    link = Link()
    for _ in range(3):
        rc, got = link.decode(link.encode(head.encode(), response=True), response=True)
        assert rc == 0 and got["minor"] == minor and got["status"] == status
        assert [(n.decode(), v.decode()) for n, v, _ in got["headers"]] == fields


HEAD = b"GET / HTTP/1.1\r\nHost: x.test\r\nX-Odd-ID: 1\r\nACCEPT: 2\r\nplain: 3\r\n\r\n"


def fields_in(block: bytes) -> list[tuple[str, str]]:
    return [(str(n), str(v)) for n, v in hpack.Decoder().decode(block)]


def test_on_the_wire_it_is_one_byte_once_it_repeats():
    link = Link()
    first = link.encode(HEAD)
    assert fields_in(first)[-1] == (FACTS, "1tx5cul")
    blocks = [link.encode(HEAD) for _ in range(3)]
    plainly = Link(sends=False)
    same = [plainly.encode(HEAD) for _ in range(4)]
    assert len(blocks[-1]) == len(same[-1]) + 1


def test_a_head_that_came_as_http2_says_nothing():
    assert FACTS not in dict(fields_in(Link().encode(HEAD, minor=2)))
    rc, got = Link().decode(Link().encode(HEAD, minor=2))
    assert rc == 0 and got["minor"] == 2
    assert [n for n, _, _ in got["headers"]] == [b"host", b"x-odd-id", b"accept", b"plain"]


def test_elsewhere_nothing_is_sent():
    assert FACTS not in dict(fields_in(Link(sends=False).encode(HEAD)))


def test_elsewhere_it_is_not_believed():
    forged = plain([("accept", "a"), (FACTS, "0uu")])
    rc, got = Link(takes=False).decode(forged, hygiene=True)
    assert rc == 0 and got["minor"] == 2
    assert [n for n, _, _ in got["headers"]] == [b"host", b"accept"]
    rc, got = Link(takes=False).decode(plain([(FACTS, "0t"), ("a", "b")], True), response=True, hygiene=True)
    assert rc == 0 and got["minor"] == 2 and [n for n, _, _ in got["headers"]] == [b"a"]


@pytest.mark.parametrize("minor", [1, 2])
def test_what_a_client_says_of_itself_does_not_travel(minor: int):
    head = HEAD.replace(b"plain", b"X-Fastmesh-H1")
    sent = fields_in(Link().encode(head, minor=minor))
    assert [v for n, v in sent if n == FACTS] == (["1tx5cu"] if minor < 2 else [])


@pytest.mark.parametrize(
    "facts",
    [
        *("", "2", "3tlt", "-", "l", "t", " ", "1t", "1tt", "1tttt", "1ttT", "1tta", "1ttx", "1ttx1"),
        *("1ttx4x", "1ttx8", "1ttx00", "1ttx12", "1ttxG0", "1ttx1F", "1ttxFF", "1ttxe11", "01ttt"),
        *("1ttt ", "1 ttt", "1ttt,1ttt", "10ttt"),
    ],
)
def test_a_value_that_is_not_for_these_fields_is_an_error(facts: str):
    # host, accept, and x-0y: 'x' takes one digit; bit 1 is the x's, bit 8 the y's, others no letters'
    rc, _ = Link().decode(plain([("accept", "1"), ("x-0y", "2"), (FACTS, facts)]))
    assert (rc == 0) == (facts in ("1ttx1", "1ttx8")), rc
    assert rc in (0, BAD)


def test_it_comes_once():
    assert Link().decode(plain([(FACTS, "1"), (FACTS, "1")]))[0] == BAD
    assert Link().decode(plain([(FACTS, "1"), ("a", "b")]))[0] == 0
    assert Link().decode(hpack.Encoder().encode([*GET[:3], (FACTS, "1"), GET[3]]))[0] == BAD


@given(st.text("01ltux0189afF", max_size=12) | st.text(TOKEN, max_size=12), st.booleans())
def test_whatever_it_says_names_stay_the_same_names(facts: str, response: bool):
    link = Link()
    fields = [("accept", "1"), ("x-very-long-name-1", "2"), ("b3", "3")]
    for _ in range(2):
        rc, got = link.decode(plain([*fields, (FACTS, facts)], response), response)
        if rc == 0:
            names = [n.decode().lower() for n, _, _ in got["headers"]]
            assert names == ([] if response else ["host"]) + [n for n, _ in fields]
            assert got["minor"] == int(facts[0])
        else:
            assert rc == BAD


def test_every_part_of_a_value_alone_is_refused_or_has_no_codes():
    whole = fields_in(Link().encode(HEAD))[-1][1]
    fields = [("x-odd-id", "1"), ("accept", "2"), ("plain", "3")]
    for n in range(len(whole) + 1):
        rc, _ = Link().decode(plain([*fields, (FACTS, whole[:n])]))
        assert (rc == 0) == (n in (1, len(whole)))


def test_a_content_length_said_twice_has_two_codes():
    fields = [("content-length", "3"), ("content-length", "3"), ("a", "b"), (FACTS, "1ttlt")]
    rc, got = Link().decode(plain(fields))
    assert rc == 0
    assert [n for n, _, _ in got["headers"]] == [b"Host", b"Content-Length", b"A"]


def test_host_beside_authority_and_te_have_no_code_of_their_own():
    fields = [("host", "X.test"), ("te", "trailers"), ("a", "b"), (FACTS, "0ut")]
    rc, got = Link().decode(plain(fields))
    assert rc == 0 and got["minor"] == 0
    assert [n for n, _, _ in got["headers"]] == [b"HOST", b"A"]


@pytest.mark.parametrize(("count", "kept"), [(50, True), (51, False), (90, False)])
def test_above_the_limit_only_the_version_is_kept(count: int, kept: bool):
    names = [f"aB-{i:012}xyz" for i in range(count)]  # "x" and five digits each, and "1t" for the rest
    names = [name[:15] for name in names]  # "x" and four digits: 250 of 256 bytes with 50 of them
    assert (len(value(["Host", *names])) > 1) == kept
    head = "GET / HTTP/1.1\r\nHost: x\r\n" + "".join(f"{n}: 1\r\n" for n in names) + "\r\n"
    link = Link()
    block = link.encode(head.encode())
    assert len(fields_in(block)[-1][1]) <= MOST
    rc, got = link.decode(block)
    assert rc == 0 and got["minor"] == 1
    assert [n.decode() for n, _, _ in got["headers"][1:]] == (names if kept else [n.lower() for n in names])


@pytest.mark.parametrize("most", range(1, 9))
def test_no_byte_is_written_behind_the_room_for_it(most: int):
    assert value_of([b"Host", b"Accept", b"X-Odd-ID"], most=most) == (b"1ttx5c" if most >= 6 else b"1")


def test_a_head_as_large_as_one_may_be_passes():
    # names by themselves near the limit, in a case of their own: each is copied to be changed
    names = [f"{'aB' * 590}{i:02}" for i in range(50)]
    head = "GET / HTTP/1.1\r\nHost: x\r\n" + "".join(f"{n}: 1\r\n" for n in names) + "\r\n"
    assert 59_000 < len(head) <= 61_440
    small = "GET / HTTP/1.1\r\nHost: x\r\n" + "".join(f"{n.upper()}: 1\r\n" for n in names) + "\r\n"
    for text, want in ((head, [n.lower() for n in names]), (small, [n.upper() for n in names])):
        link = Link()
        rc, got = link.decode(link.encode(text.encode()))
        assert rc == 0
        assert [n.decode() for n, _, _ in got["headers"][1:]] == want
