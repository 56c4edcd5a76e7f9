"""h1_write: what is written, that nothing is written past the buffer, and that h11 reads it back."""

from __future__ import annotations

import http

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import h1_shim as h1

EHEAD = -23
TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(TCHARS, min_size=1, max_size=20).map(lambda s: ("x-" + s).encode())
values = st.binary(max_size=40).map(lambda b: bytes(c for c in b if c >= 0x20 and c != 0x7F).strip())
gaps = st.sampled_from([b"", b" ", b"  ", b"\t"])
fields_of = st.lists(st.tuples(names, gaps, values, gaps), max_size=12)


def request(fields: list[tuple[bytes, bytes, bytes, bytes]]) -> bytes:
    lines = b"".join(n + b":" + before + v + after + b"\r\n" for n, before, v, after in fields)
    return b"PUT /a?b HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"


@given(fields_of)
def test_heads_come_out_as_they_came_in(fields):
    rc, out, _ = h1.rewrite(request(fields), clean=False)
    assert rc == 0
    assert out == request([(n, b" ", v, b"") for n, _, v, _ in fields])
    conn = h11.Connection(h11.SERVER)
    conn.receive_data(out)
    event = conn.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == b"/a?b"
    assert event.headers.raw_items() == [(b"Host", b"a"), *((n, v) for n, _, v, _ in fields)]


@given(fields_of, st.data())
def test_replaced_values_do_not_bring_old_bytes_along(fields, data):
    replaced = data.draw(st.lists(st.tuples(st.integers(0, len(fields)), values), max_size=3))
    wanted = [(b"Host", b"a"), *((n, v) for n, _, v, _ in fields)]
    for index, value in replaced:
        wanted[index] = (wanted[index][0], value)
    out = h1.write_head(request(fields), replaced)
    assert out == b"".join(n + b": " + v + b"\r\n" for n, v in wanted)


def test_dropped_fields_leave_no_trace():
    data = b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nConnection: b\r\nB: 2\r\nC: 3\r\nTE: x\r\n\r\n"
    rc, out, _ = h1.rewrite(data)
    assert (rc, out) == (0, b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nC: 3\r\n\r\n")


def test_nothing_is_written_past_the_buffer():
    data = b"GET /path HTTP/1.1\r\nHost: a\r\nAccept:  */*\r\nB: c\r\n\r\n"
    rc, out, _ = h1.rewrite(data)
    assert rc == 0
    for room in range(len(out)):  # the byte behind the room cannot be written
        assert h1.rewrite(data, room=room)[0] == EHEAD
    assert h1.rewrite(data, room=len(out))[:2] == (0, out)


@given(st.integers(0, 2**64 - 1))
def test_numbers(n):
    assert h1.written("uint", n) == b"%d" % n
    assert h1.written("hex", n) == b"%x" % n
    assert h1.written("uint", n, room=len(str(n)) - 1) is None
    assert h1.written("hex", n, room=len(f"{n:x}")) == b"%x" % n


def test_field():
    assert h1.written("field", b"A", b"") == b"A: \r\n"
    assert h1.written("field", b"A", b"bc", room=7) == b"A: bc\r\n"
    assert h1.written("field", b"A", b"bc", room=6) is None


@pytest.mark.parametrize("status", [s.value for s in http.HTTPStatus])
def test_reason_phrases(status):
    phrase = h1.reason(status)
    line = h1.written("status", status, b"")
    assert line == b"HTTP/1.1 %d %s\r\n" % (status, phrase)
    # RFC 9110 renamed some; those outside of it (WebDAV and the like) need none
    renamed = {
        413: b"Content Too Large",
        414: b"URI Too Long",
        416: b"Range Not Satisfiable",
        418: b"",
        422: b"Unprocessable Content",
    }
    wanted = renamed.get(status, http.HTTPStatus(status).phrase.encode())
    assert phrase.lower() == wanted.lower() or phrase == b""
    assert phrase or status in (102, 207, 208, 226, 418, 423, 424, 506, 507, 508, 510)


def test_status_lines():
    assert h1.written("status", 200, b"Fine") == b"HTTP/1.1 200 Fine\r\n"
    assert h1.written("status", 799, b"") == b"HTTP/1.1 799 \r\n"
    rc, out, _ = h1.rewrite(b"HTTP/1.0 200\r\nA: b\r\n\r\n", True)
    assert (rc, out) == (0, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n")
