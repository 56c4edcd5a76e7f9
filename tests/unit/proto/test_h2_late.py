"""HTTP/2: what is still on its way to streams that have gone, and resets that nobody is to blame for."""

from __future__ import annotations

import hpack
import pytest
from hyperframe import frame as hf
from shim.h2_shim import Side

from helpers.h2side import (
    CALM,
    CANCEL,
    GET,
    PROTOCOL,
    REFUSED,
    STREAM_CLOSED,
    begun,
    frames,
    head,
    raw,
    reset_of,
    server,
    swap,
)

POST = [(":method", "POST"), *GET[1:]]
OPEN_HEAD = ("END_HEADERS",)
REQUEST = (b"GET", b"/", [(b"host", b"a.test")])
# Fewer than are remembered, and more.
MANY = [1, 32, 33, 300, 1500]
EMPTY_FRAMES = 1000
FORGOTTEN = 600  # ids: more than are remembered


def opened(side, n, coder, first=1):
    """n requests whose bodies are still to come."""
    for sid in range(first, first + 2 * n, 2):
        assert side.receive(raw(1, 4, sid, coder.encode(POST))) == 0, side.failed()
    side.take()
    return range(first, first + 2 * n, 2)


def resets(data):
    return [f for f in frames(data) if isinstance(f, hf.RstStreamFrame)]


def credit(data):
    return sum(
        f.window_increment for f in frames(data) if isinstance(f, hf.WindowUpdateFrame) and f.stream_id == 0
    )


@pytest.mark.parametrize("many", MANY)
def test_a_server_ignores_all_that_comes_on_streams_that_it_reset(many):
    side, coder = begun(streams=2000, max_streams=2000), hpack.Encoder()
    ids = opened(side, many, coder)
    for sid in ids:
        side.reset(sid, CANCEL)
    assert len(resets(side.take())) == many
    side.events.clear()
    given = 0
    for sid in ids:  # all of it was sent before our reset came
        late = raw(0, 0, sid, b"x" * 1000) + raw(8, 0, sid, b"\0\0\0\1")
        late += raw(1, 5, sid, coder.encode([("x-late", str(sid))])) + raw(3, 0, sid, b"\0\0\0\x08")
        assert side.receive(late) == 0, side.failed()
        out = side.take()
        given += credit(out)
        assert resets(out) == []
    assert side.events == []
    assert given > many * 1000 - 65536 // 2  # as much as was used up, to half a window
    # the tables still agree, and the connection goes on
    sid = ids[-1] + 2
    assert side.receive(raw(1, 5, sid, coder.encode([*GET, ("x-late", str(ids[-1]))]))) == 0
    assert side.events[-1][1] == sid
    assert side.events[-1][3][-1] == (b"x-late", str(ids[-1]).encode())
    side.reset(sid, CANCEL)
    assert side.close() == (0, 0, 0)


@pytest.mark.parametrize("many", MANY)
def test_a_client_ignores_all_that_comes_on_streams_that_it_reset(many):
    side, coder = begun(server=False, streams=2000), hpack.Encoder()
    ids = [side.request(*REQUEST) for _ in range(many)]
    side.take()
    for sid in ids:
        side.reset(sid, CANCEL)
    side.take()
    for sid in ids:
        late = raw(1, 4, sid, coder.encode([(":status", "103"), ("link", "a")]))
        late += raw(1, 4, sid, coder.encode([(":status", "200"), ("x-late", str(sid))]))
        late += raw(0, 0, sid, b"x" * 1000) + raw(1, 5, sid, coder.encode([("grpc-status", "0")]))
        assert side.receive(late) == 0, side.failed()
        assert resets(side.take()) == []
    sid = side.request(*REQUEST)
    answer = coder.encode([(":status", "200"), ("x-late", str(ids[-1]))])
    assert side.receive(raw(1, 5, sid, answer)) == 0
    assert side.events[-1][:4] == ("head", sid, 200, [(b"x-late", str(ids[-1]).encode())])
    side.release(sid)
    assert side.close() == (0, 0, 0)


def test_a_stream_that_outlived_all_that_is_remembered_is_reset_in_peace():
    side, coder = begun(streams=2000, max_streams=2000), hpack.Encoder()
    opened(side, 1, coder)
    for sid in opened(side, FORGOTTEN, coder, first=3):
        side.answer(sid, 200, end=True)
        assert side.receive(raw(0, 1, sid, b"")) == 0
        side.release(sid)
    side.reset(1, CANCEL)
    side.take()
    assert side.receive(raw(0, 0, 1, b"x" * 100) + raw(1, 5, 1, coder.encode([("x-t", "1")]))) == 0
    assert resets(side.take()) == []


LATE = {
    "trailers": lambda sid: head(sid, [("x-t", "1")]),
    "DATA without a byte": lambda sid: raw(0, 1, sid, b""),
}


@pytest.mark.parametrize("name", LATE)
def test_late_frames_that_carry_nothing_have_an_end(name):
    side, coder = begun(), hpack.Encoder()
    (sid,) = opened(side, 1, coder)
    side.reset(sid, CANCEL)
    side.take()
    sent = 0
    while sent < 2 * EMPTY_FRAMES and side.receive(LATE[name](sid)) == 0:
        sent += 1
    assert side.failed()[0] == CALM
    assert sent >= EMPTY_FRAMES


def test_three_hundred_cancels_with_data_on_its_way_provoke_nothing():
    side, coder = begun(streams=2000, max_streams=2000), hpack.Encoder()
    ids = opened(side, 300, coder)
    for sid in ids:
        side.reset(sid, CANCEL)
    side.take()
    for _ in range(5):
        for sid in ids:
            assert side.receive(raw(0, 0, sid, b"x" * 10)) == 0, side.failed()
            assert resets(side.take()) == []


def test_data_on_streams_that_had_ended_provokes():
    side, coder = begun(streams=2000, max_streams=2000), hpack.Encoder()
    sent = 0
    for sid in range(1, 1001, 2):
        assert side.receive(raw(1, 5, sid, coder.encode(GET))) == 0
        side.answer(sid, 200, end=True)
        side.release(sid)
        side.take()
        sent += 1
        if side.receive(raw(0, 0, sid, b"x")) < 0:
            break
        assert reset_of(side) == STREAM_CLOSED
    assert side.failed()[0] == CALM
    assert sent == 201


def test_the_errors_of_ids_that_are_remembered():
    side = begun()
    assert side.receive(head(1, GET) + head(5, GET)) == 0
    side.answer(1, 200, end=True)
    side.release(1)
    for sid in (1, 3):
        twin = begun()
        assert twin.receive(head(1, GET) + head(5, GET)) == 0
        for done in (1, 5):
            twin.answer(done, 200, end=True)
            twin.release(done)
        assert twin.receive(head(sid, GET)) < 0
        assert twin.failed()[0] == (STREAM_CLOSED if sid == 1 else PROTOCOL)
    assert side.receive(head(3, GET)) < 0
    assert side.failed()[0] == PROTOCOL


def test_what_follows_a_refused_request_is_ignored():
    side, coder = begun(max_streams=1), hpack.Encoder()
    opened(side, 1, coder)
    assert side.receive(raw(1, 4, 3, coder.encode(POST))) == 0
    assert reset_of(side) == REFUSED
    assert side.receive(raw(0, 0, 3, b"body") + raw(1, 5, 3, coder.encode([("x-t", "1")]))) == 0, (
        side.failed()
    )
    assert resets(side.take()) == []


def test_what_follows_a_request_behind_our_goaway_is_ignored():
    side, coder = begun(), hpack.Encoder()
    opened(side, 1, coder)
    side.goaway(True)
    side.take()
    assert side.receive(raw(1, 4, 3, coder.encode(POST)) + raw(0, 0, 3, b"body")) == 0
    assert side.receive(raw(1, 5, 3, coder.encode([("x-t", "1")]))) == 0, side.failed()
    assert resets(side.take()) == []


def refuse_many(side):
    coder = hpack.Encoder()
    for sid in range(1, 801, 2):
        if side.receive(raw(1, 5, sid, coder.encode(GET))) < 0:
            return False
        side.take()
    return True


def test_more_streams_than_allowed_are_no_attack_before_the_limit_is_known():
    assert refuse_many(begun(max_streams=2))
    told = begun(max_streams=2)
    assert told.receive(raw(4, 1, 0, b"")) == 0
    assert not refuse_many(told)
    assert told.failed()[0] == CALM


def test_requests_that_find_no_memory_are_not_the_peers_doing():
    side = begun(streams=2)
    assert side.receive(raw(4, 1, 0, b"")) == 0
    assert refuse_many(side)


def take_back(side, n):
    """Requests of which each is reset before its answer; how many went well."""
    coder = hpack.Encoder()
    for i in range(n):
        sid = 2 * i + 1
        if side.receive(raw(1, 5, sid, coder.encode(GET)) + raw(3, 0, sid, b"\0\0\0\x08")) < 0:
            return i
        side.take()
    return n


def test_a_burst_of_cancelled_requests_does_not_end_a_link():
    assert take_back(begun(), 1000) == 200
    link = begun(link=True)
    assert take_back(link, 9999) == 9999
    assert link.failed()[0] == 0


def test_a_link_has_a_limit_of_its_own():
    link = begun(link=True)
    assert take_back(link, 10100) == 10000
    assert link.failed()[0] == CALM


@pytest.mark.parametrize("options", [{"link": True}, {"server": False}])
def test_resets_that_requests_of_ours_brought_about_do_not_end_the_connection(options):
    side, coder = begun(streams=5000, max_streams=5000, **options), hpack.Encoder()
    for i in range(1000):
        if options.get("server", True):
            block = coder.encode([*GET, ("content-length", "5")])
            assert side.receive(raw(1, 5, 2 * i + 1, block)) == 0, side.failed()
        else:
            sid = side.request(*REQUEST)
            side.take()
            block = coder.encode([(":status", "200"), ("content-length", "5")])
            assert side.receive(raw(1, 5, sid, block)) == 0, side.failed()
        assert reset_of(side) == PROTOCOL


def test_an_upstream_that_breaks_the_rules_forever_is_left():
    side = begun(server=False)
    sid = side.request(*REQUEST)
    assert side.receive(head(sid, [(":status", "200")])) == 0
    side.release(sid)
    side.take()
    sent = 0
    while sent < 20000 and side.receive(raw(0, 0, sid, b"x")) == 0:
        side.take()
        sent += 1
    assert side.failed()[0] == CALM
    assert sent == 10000


def test_a_peer_of_the_package_goes_on_after_cancels():
    side, peer = Side(server=False), server()
    swap(side, peer)
    for _ in range(50):
        ids = [side.request(*REQUEST) for _ in range(40)]
        swap(side, peer)
        for sid in ids:
            peer.send_headers(sid, [(":status", "200"), ("x-late", str(sid))])
            peer.send_data(sid, b"some")
        late = peer.data_to_send()
        for sid in ids:
            side.reset(sid, CANCEL)
        assert side.receive(late) == 0, side.failed()
        swap(side, peer)
    assert side.close() == (0, 0, 0)
