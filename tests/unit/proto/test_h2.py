"""HTTP/2 on a wire in memory: against the `h2` package, whole and in pieces; errors; limits."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
from hyperframe import frame as hf
from shim.h2_shim import Side, event

OPEN, HALF_LOCAL, HALF_REMOTE, CLOSED = 1, 2, 3, 4
PROTOCOL, INTERNAL, FLOW, STREAM_CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CALM = 1, 2, 3, 5, 6, 7, 8, 9, 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "x.test")]

# RFC 9113 figure 2, by hand: rows idle, open, half-closed local and remote, closed; columns headers, data,
# end, reset sent, then received. Negative: the error.
N, P, S = -INTERNAL, -PROTOCOL, -STREAM_CLOSED
TABLE = [
    [OPEN, N, N, N, OPEN, P, P, P],
    [OPEN, OPEN, HALF_LOCAL, CLOSED, OPEN, OPEN, HALF_REMOTE, CLOSED],
    [N, N, N, CLOSED, HALF_LOCAL, HALF_LOCAL, CLOSED, CLOSED],
    [HALF_REMOTE, HALF_REMOTE, CLOSED, CLOSED, S, S, S, CLOSED],
    [N, N, N, N, S, S, S, CLOSED],
]


@pytest.mark.parametrize(("state", "what"), [(s, e) for s in range(5) for e in range(8)])
def test_every_cell_of_the_transition_table(state, what):
    assert event(state, what) == TABLE[state][what]


def client() -> h2.connection.H2Connection:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    peer.initiate_connection()
    return peer


def server() -> h2.connection.H2Connection:
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    peer.initiate_connection()
    return peer


def swap(side: Side, peer: h2.connection.H2Connection, step: int = 0) -> list[h2.events.Event]:
    """Bytes both ways until nobody has more to say: what the peer was told. step: bytes a time, 0: all."""
    told: list[h2.events.Event] = []
    while True:
        ours, theirs = side.take(), peer.data_to_send()
        if not ours and not theirs:
            return told
        for at in range(0, len(theirs), step or len(theirs) or 1):
            assert side.receive(theirs[at : at + (step or len(theirs))]) == 0, side.failed()
        if ours:
            told += peer.receive_data(ours)


def kinds(events, kind):
    return [e for e in events if isinstance(e, kind)]


@pytest.mark.parametrize("step", [0, 1, 7, 100])
def test_a_conversation_as_the_server(step):
    side, peer = Side(), client()
    peer.send_headers(1, [*GET, ("x-a", "1")], end_stream=True)
    peer.send_headers(3, [*GET, ("content-length", "6")])
    peer.send_data(3, b"abc")
    peer.send_data(3, b"def", end_stream=True)
    swap(side, peer, step)
    heads = [e for e in side.events if e[0] == "head"]
    line = (b"GET", b"/a?b")
    assert [(e[1], e[2], e[4]) for e in heads] == [(1, line, True), (3, line, False)]
    assert heads[0][3] == [(b"host", b"x.test"), (b"x-a", b"1")]
    assert b"".join(e[2] for e in side.events if e[0] == "data") == b"abcdef"
    assert side.state(1) == HALF_REMOTE
    assert side.answer(1, 103, [(b"link", b"</x>")]) == 0
    assert side.answer(1, 200, [(b"content-length", b"5")]) == 0
    assert side.data(1, b"hello", end=True) == 0
    assert side.answer(3, 200) == 0
    assert side.data(3, b"grpc") == 0
    assert side.trailers(3, [(b"grpc-status", b"0")]) == 0
    told = swap(side, peer)
    interim = kinds(told, h2.events.InformationalResponseReceived)
    assert [dict(e.headers)[":status"] for e in interim] == ["103"]
    assert [e.stream_id for e in kinds(told, h2.events.StreamEnded)] == [1, 3]
    assert [e.data for e in kinds(told, h2.events.DataReceived)] == [b"hello", b"grpc"]
    assert [e.headers for e in kinds(told, h2.events.TrailersReceived)] == [[("grpc-status", "0")]]
    assert side.state(1) == side.state(3) == CLOSED
    side.release(1)
    side.release(3)
    assert side.close() == (0, 0, 0)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_conversation_as_the_client(step):
    side, peer = Side(server=False), server()
    swap(side, peer, step)
    sid = side.request(b"POST", b"/p", [(b"host", b"y.test"), (b"X-Case", b"v")], end=False)
    assert sid == 1
    assert side.data(sid, b"x" * 10, end=True) == 0
    told = swap(side, peer, step)
    request = kinds(told, h2.events.RequestReceived)[0]
    assert request.headers == [
        (":method", "POST"), (":scheme", "http"), (":path", "/p"), (":authority", "y.test"), ("x-case", "v")
    ]  # fmt: skip
    assert kinds(told, h2.events.StreamEnded)
    peer.send_headers(1, [(":status", "103"), ("link", "a")])
    peer.send_headers(1, [(":status", "200"), ("x", "y")])
    peer.send_data(1, b"body")
    peer.send_headers(1, [("grpc-status", "5")], end_stream=True)
    swap(side, peer, step)
    assert [e[2] for e in side.events if e[0] == "head"] == [103, 200]
    assert ("trailers", 1, [(b"grpc-status", b"5")]) in side.events
    side.release(1)
    assert side.close() == (0, 0, 0)


def test_windows_hold_data_back_and_give_it_in_turns():
    side, peer = Side(), client()
    peer.update_settings({4: 100})  # 100 bytes a stream
    for sid in (1, 3, 5):
        peer.send_headers(sid, GET, end_stream=True)
    swap(side, peer)
    for sid in (1, 3, 5):
        side.answer(sid, 200)
        assert side.data(sid, bytes([sid]) * 1000, end=True, wait=True) == 0
    told = swap(side, peer)
    got = kinds(told, h2.events.DataReceived)
    assert [(e.stream_id, len(e.data)) for e in got] == [(1, 100), (3, 100), (5, 100)]
    assert side.windows(1)[1:] == (0, 900)
    peer.update_settings({4: 50})  # turns the windows negative
    swap(side, peer)
    assert side.windows(1)[1] == -50
    for sid in (1, 3, 5):
        peer.increment_flow_control_window(949 + sid, sid)  # the last bytes of stream 1 fit exactly
    told = swap(side, peer)
    assert [e.stream_id for e in kinds(told, h2.events.StreamEnded)] == [1, 3, 5]
    assert [e for e in side.events if e[0] == "writable"] == [("writable", sid) for sid in (1, 3, 5)]
    assert side.close() == (0, 0, 0)


def test_data_of_many_streams_is_framed_round_robin():
    side, peer = Side(), client()
    for sid in (1, 3, 5):
        peer.send_headers(sid, GET, end_stream=True)
    swap(side, peer)
    side.answer(1, 200)
    side.data(1, b"1" * 65535)  # the connection's whole window
    for sid in (3, 5):
        side.answer(sid, 200)
        side.data(sid, b"x" * 40000, end=True)
    swap(side, peer)
    peer.increment_flow_control_window(200000)
    order = [e.stream_id for e in kinds(swap(side, peer), h2.events.DataReceived)]
    assert order == [3, 5, 3, 5, 3, 5]
    assert side.close() == (0, 0, 0)


def test_an_upload_gets_its_windows_back_only_when_it_is_used_up():
    side, peer = Side(), client()
    side.credit = False
    peer.send_headers(1, [*GET[1:], (":method", "POST")])
    for _ in range(3):
        peer.send_data(1, b"x" * 16384)
    swap(side, peer)
    assert peer.local_flow_control_window(1) == 65535 - 3 * 16384
    side.give(1, 3 * 16384)
    swap(side, peer)
    assert peer.local_flow_control_window(1) == 65535


def test_a_head_larger_than_a_frame_goes_in_continuations():
    side, peer = Side(), client()
    swap(side, peer)
    peer.send_headers(1, GET, end_stream=True)
    swap(side, peer)
    fields = [(b"x-%d" % i, bytes([33 + i % 90]) * 900) for i in range(40)]
    assert side.answer(1, 200, fields, end=True) == 0
    told = swap(side, peer)
    got = kinds(told, h2.events.ResponseReceived)[0].headers
    assert [(n.encode(), v.encode()) for n, v in got[1:]] == fields


def test_a_drain_in_two_steps():
    side, peer = Side(), client()
    peer.send_headers(1, GET, end_stream=True)
    swap(side, peer)
    side.goaway(False)
    assert [f.last_stream_id for f in frames(side.take())] == [2**31 - 1]
    peer.send_headers(3, GET, end_stream=True)
    side.receive(peer.data_to_send())
    side.goaway(True)
    assert [f.last_stream_id for f in frames(side.take())] == [3]
    peer.send_headers(5, GET, end_stream=True)
    side.receive(peer.data_to_send())
    assert [e[1] for e in side.events if e[0] == "head"] == [1, 3]


# ---- frames by hand --------------------------------------------------------------------------------------


def frames(data: bytes) -> list[hf.Frame]:
    out = []
    while data:
        frame, length = hf.Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        out.append(frame)
        data = data[9 + length :]
    return out


def begun(**options) -> Side:
    """A server whose client has said its preface."""
    side = Side(**options)
    assert side.receive(PREFACE + hf.SettingsFrame().serialize()) == 0
    side.take()
    side.events.clear()
    return side


def head(sid: int, fields, flags=("END_HEADERS", "END_STREAM")) -> bytes:
    return hf.HeadersFrame(sid, hpack.Encoder().encode(fields), flags=flags).serialize()


def raw(kind: int, flags: int, sid: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + sid.to_bytes(4, "big") + payload


def goaway_of(side: Side) -> int:
    return next(f.error_code for f in frames(side.take()) if isinstance(f, hf.GoAwayFrame))


def reset_of(side: Side) -> int:
    return next(f.error_code for f in frames(side.take()) if isinstance(f, hf.RstStreamFrame))


CONNECTION_ERRORS = {
    "data on stream 0": (raw(0, 0, 0, b"x"), PROTOCOL),
    "data on an idle stream": (raw(0, 0, 1, b"x"), PROTOCOL),
    "headers on stream 0": (raw(1, 4, 0, b""), PROTOCOL),
    "headers on an even stream": (head(2, GET), PROTOCOL),
    "a frame above 16384": (raw(0, 0, 1, b"x" * 16385), SIZE),
    "settings of 5 bytes": (raw(4, 0, 0, b"x" * 5), SIZE),
    "settings ack with a payload": (raw(4, 1, 0, b"x" * 6), SIZE),
    "settings on a stream": (raw(4, 0, 1, b""), PROTOCOL),
    "push on 2": (raw(4, 0, 0, b"\0\2\0\0\0\2"), PROTOCOL),
    "window above 2^31-1": (raw(4, 0, 0, b"\0\4\x80\0\0\0"), FLOW),
    "frame size 16383": (raw(4, 0, 0, b"\0\5\0\0\x3f\xff"), PROTOCOL),
    "ping of 7 bytes": (raw(6, 0, 0, b"x" * 7), SIZE),
    "ping on a stream": (raw(6, 0, 1, b"x" * 8), PROTOCOL),
    "window update of 0": (raw(8, 0, 0, b"\0\0\0\0"), PROTOCOL),
    "window update on an idle stream": (raw(8, 0, 1, b"\0\0\0\1"), PROTOCOL),
    "window update that overflows": (raw(8, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
    "rst on an idle stream": (raw(3, 0, 1, b"\0\0\0\0"), PROTOCOL),
    "rst of 3 bytes": (raw(3, 0, 1, b"\0\0\0"), SIZE),
    "push promise": (raw(5, 4, 1, b"\0\0\0\2"), PROTOCOL),
    "continuation of nothing": (raw(9, 4, 1, b""), PROTOCOL),
    "another frame in a block": (raw(1, 0, 1, b"\x82") + raw(6, 0, 0, b"x" * 8), PROTOCOL),
    "another stream in a block": (raw(1, 0, 1, b"\x82") + raw(9, 4, 3, b""), PROTOCOL),
    "a block that is none": (raw(1, 5, 1, b"\xff\xff\xff"), COMPRESSION),
    "more padding than payload": (raw(1, 0xD, 1, b"\x09\x82"), PROTOCOL),
    "an id below one that was used": (head(5, GET) + head(3, GET), PROTOCOL),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_errors_of_the_connection(name):
    data, code = CONNECTION_ERRORS[name]
    side = begun()
    assert side.receive(data) < 0
    assert side.failed()[0] == code
    assert goaway_of(side) == code
    assert side.receive(b"more") < 0
    assert side.close() == (0, 0, 0)


def without(name):
    return [f for f in GET if f[0] != name]


MALFORMED = {
    "upper case": [*GET, ("X-A", "1")],
    "no method": without(":method"),
    "no path": without(":path"),
    "no scheme": without(":scheme"),
    "no authority": without(":authority"),
    "a method twice": [*GET, (":method", "GET")],
    "an unknown pseudo field": [*GET, (":other", "1")],
    ":status in a request": [*GET, (":status", "200")],
    "a pseudo field behind others": [("a", "b"), *GET],
    "connection": [*GET, ("connection", "close")],
    "transfer-encoding": [*GET, ("transfer-encoding", "chunked")],
    "upgrade": [*GET, ("upgrade", "x")],
    "te gzip": [*GET, ("te", "gzip")],
    "a line break": [*GET, ("a", "b\r\nc: d")],
    "NUL": [*GET, ("a", "b\0")],
    "a space in front": [*GET, ("a", " b")],
    "a colon in a name": [*GET, ("a:b", "c")],
    "a space in a name": [*GET, ("a b", "c")],
    "another host": [*GET, ("host", "y.test")],
    "user information": [*without(":authority"), (":authority", "a@x.test")],
    "an empty path": [*without(":path"), (":path", "")],
    "a path with a space": [*without(":path"), (":path", "/a b")],
    "an absolute path": [*without(":path"), (":path", "http://x.test/")],
    "a scheme of its own": [*without(":scheme"), (":scheme", "ftp")],
    "two lengths": [*GET, ("content-length", "1"), ("content-length", "2")],
    "a length that is none": [*GET, ("content-length", "+1")],
    "a length without a body": [*GET, ("content-length", "5")],
    ":protocol without CONNECT": [*GET, (":protocol", "websocket")],
    "CONNECT with a path": [(":method", "CONNECT"), (":authority", "x.test:1"), (":path", "/")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests(name):
    side = begun()
    block = hpack.Encoder().encode(MALFORMED[name])
    assert side.receive(hf.HeadersFrame(1, block, flags=("END_HEADERS", "END_STREAM")).serialize()) == 0
    assert reset_of(side) == PROTOCOL
    assert side.events == []
    assert side.receive(head(3, GET)) == 0
    assert [e[:2] for e in side.events] == [("head", 3)]
    side.reset(3, CANCEL)
    assert side.close() == (0, 0, 0)


WELL_FORMED = {
    "host instead of :authority": ([*without(":authority"), ("host", "x.test")], (b"host", b"x.test")),
    "both, the same": ([*GET, ("host", "X.test")], (b"host", b"x.test")),
    "a length said twice": ([*GET, *[("content-length", "0")] * 2], (b"content-length", b"0")),
    "cookies in crumbs": (
        [*GET, ("cookie", "a=1"), ("b", "c"), ("cookie", "d=2")], (b"cookie", b"a=1; d=2"),
    ),
    "obs-text": ([*GET, ("a", b"\xff")], (b"a", b"\xff")),
    "extended CONNECT": (
        [*without(":method"), (":method", "CONNECT"), (":protocol", "websocket")], (b"host", b"x.test"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_requests(name):
    fields, wanted = WELL_FORMED[name]
    side = begun()
    assert side.receive(head(1, fields)) == 0
    ((_, _, _, got, end),) = side.events
    assert end
    assert wanted in got
    assert len([n for n, _ in got if n == wanted[0]]) == 1


def test_a_body_that_is_not_as_long_as_it_said():
    side = begun()
    side.receive(head(1, [*GET, ("content-length", "3")], flags=("END_HEADERS",)) + raw(0, 1, 1, b"four"))
    assert reset_of(side) == PROTOCOL
    assert ("reset", 1, PROTOCOL, False) in side.events


def test_a_head_of_too_many_fields_is_told_and_the_tables_stay_right():
    side, coder = begun(), hpack.Encoder()
    big = coder.encode([*GET, ("x-kept", "yes"), *((f"x-{i}", "v") for i in range(110))])
    assert side.receive(raw(1, 5, 1, big)) == 0
    assert side.events == [("refused", 1, -23)]
    side.receive(raw(1, 5, 3, coder.encode([*GET, ("x-kept", "yes")])))
    assert side.events[-1][3][-1] == (b"x-kept", b"yes")


# ---- limits ----------------------------------------------------------------------------------------------


def test_more_streams_than_allowed_are_refused_and_can_be_tried_again():
    side = begun(max_streams=2)
    for sid in (1, 3, 5):
        assert side.receive(head(sid, GET)) == 0
    assert reset_of(side) == REFUSED
    assert [e[1] for e in side.events] == [1, 3]
    side.answer(1, 200, end=True)
    side.release(1)
    assert side.receive(head(7, GET)) == 0
    assert side.events[-1][1] == 7


LIMITS = {
    "rapid reset (CVE-2023-44487)": lambda i: head(2 * i + 1, GET) + raw(3, 0, 2 * i + 1, b"\0\0\0\x08"),
    "made-you-reset (CVE-2025-8671)": lambda i: head(2 * i + 1, GET) + raw(8, 0, 2 * i + 1, b"\0\0\0\0"),
    "PING (CVE-2019-9512)": lambda i: raw(6, 0, 0, b"12345678"),
    "SETTINGS (CVE-2019-9515)": lambda i: raw(4, 0, 0, b""),
    "PRIORITY (CVE-2019-9513)": lambda i: raw(2, 0, 1, b"\0\0\0\3\0"),
    "unknown frames": lambda i: raw(77, 0, 0, b"x"),
    "window updates": lambda i: raw(8, 0, 0, b"\0\0\0\1"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_floods_end_the_connection(name):
    side = begun(streams=100000, max_streams=100000)
    for i in range(20000):
        if side.receive(LIMITS[name](i)) < 0:
            break
        side.take()
    assert side.failed()[0] == CALM
    assert side.close() == (0, 0, 0)


def test_empty_data_frames_end_the_connection():
    side = begun()
    side.receive(head(1, GET, flags=("END_HEADERS",)))
    assert any(side.receive(raw(0, 0, 1, b"")) < 0 for _ in range(2000))
    assert side.failed()[0] == CALM


@pytest.mark.parametrize("piece", [b"", b"\x00\x01a\x01b" * 1000])
def test_a_flood_of_continuations_ends_the_connection(piece):
    side = begun()
    side.receive(raw(1, 1, 1, b""))
    assert any(side.receive(raw(9, 0, 1, piece)) < 0 for _ in range(100))
    assert side.failed()[0] == CALM
    assert side.held() < 1 << 18
    assert side.close() == (0, 0, 0)


def test_answers_that_nobody_reads_are_bounded():
    side = begun()
    for second in range(2, 1000):
        if side.receive(raw(6, 0, 0, b"12345678") * 90, second * 1000) < 0:
            break
    assert side.failed()[0] == CALM
    assert side.held() < 1 << 18


def test_the_rates_are_of_a_second():
    side = begun()
    for second in range(2, 30):
        assert side.receive(raw(6, 0, 0, b"12345678") * 90, second * 1000) == 0
        side.take()


def test_a_goaway_gives_back_what_was_not_seen():
    side, peer = Side(server=False), server()
    swap(side, peer)
    for _ in range(3):
        side.request(b"GET", b"/", [(b"host", b"a.test")])
    side.take()
    side.receive(raw(7, 0, 0, b"\0\0\0\1\0\0\0\0"))
    told = [e for e in side.events if e[0] in ("reset", "goaway")]
    assert sorted(told[:2]) == [("reset", 3, REFUSED, True), ("reset", 5, REFUSED, True)]
    assert told[2:] == [("goaway", 1, 0)]
    assert side.request(b"GET", b"/", [(b"host", b"a.test")]) == 0
    assert side.state(1) != -1


def test_trailers_announce_a_table_that_shrank():
    side, peer = Side(), client()
    peer.send_headers(1, GET, end_stream=True)
    swap(side, peer)
    side.answer(1, 200)
    swap(side, peer)
    peer.update_settings({1: 0})  # no table any more
    swap(side, peer)
    side.trailers(1, [(b"grpc-status", b"0")])
    assert kinds(swap(side, peer), h2.events.TrailersReceived)


@pytest.mark.parametrize("many", [1, 10, 33, 100])
def test_an_answer_on_its_way_to_a_cancelled_stream_is_ignored(many):
    side, peer = Side(server=False), server()
    swap(side, peer)
    ids = [side.request(b"GET", b"/", [(b"host", b"y.test")]) for _ in range(many)]
    swap(side, peer)
    for sid in ids:
        peer.send_headers(sid, [(":status", "200"), ("x-late", str(sid))])
    late = peer.data_to_send()
    for sid in ids:
        side.reset(sid, CANCEL)
    assert side.receive(late) == 0, side.failed()
    swap(side, peer)
    sid = side.request(b"GET", b"/", [(b"host", b"y.test")])
    swap(side, peer)
    # the tables still agree
    peer.send_headers(sid, [(":status", "200"), ("x-late", str(ids[-1]))], end_stream=True)
    swap(side, peer)
    assert side.events[-1][:4] == ("head", sid, 200, [(b"x-late", str(ids[-1]).encode())])
    side.release(sid)
    assert side.close() == (0, 0, 0)


def test_trailers_on_their_way_to_a_stream_that_the_server_reset_are_ignored():
    side, peer = Side(), client()
    peer.send_headers(1, [(":method", "POST"), *GET[1:]])
    swap(side, peer)
    peer.send_headers(1, [("x-t", "1")], end_stream=True)
    late = peer.data_to_send()
    side.reset(1, CANCEL)
    assert side.receive(late) == 0, side.failed()
    assert side.close() == (0, 0, 0)
