"""HTTP/2 and the owners of streams: who takes one, who hears of its end, what its callbacks may do."""

from __future__ import annotations

import random

import h2.events
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shim.h2_shim import Side

from helpers.h2side import (
    CALM,
    CANCEL,
    CLOSED,
    GET,
    INTERNAL,
    REFUSED,
    begun,
    client,
    frames,
    head,
    kinds,
    raw,
    reset_of,
    server,
    swap,
)

ENOMEM, EHEAD = -4, -23
OPEN_HEAD = ("END_HEADERS",)
POST = [(":method", "POST"), *GET[1:]]
PAGE = 4096  # a block with room for a frame or two


def clean(side: Side) -> None:
    assert side.faults() == []
    assert side.close() == (0, 0, 0)


# ---- requests that nobody takes --------------------------------------------------------------------------

UNTAKEN = {
    "a request": head(1, GET),
    "a request with a body": head(1, POST, OPEN_HEAD),
    "a request that is refused with a status": head(1, [*GET, ("expect", "x")]),
}


@pytest.mark.parametrize("name", UNTAKEN)
def test_a_request_that_nobody_takes_is_refused(name):
    side = begun()
    side.takes = False
    assert side.receive(UNTAKEN[name]) == 0
    assert len(side.events) == 1
    assert side.ids() == []
    assert reset_of(side) == REFUSED
    side.takes = True
    assert side.receive(raw(0, 1, 1, b"body")) == 0  # on its way
    assert side.receive(head(3, GET)) == 0
    assert side.ids() == [3]
    side.reset(3, CANCEL)
    clean(side)


def test_a_request_that_nobody_takes_but_someone_began_to_answer_is_broken():
    side = begun()
    side.takes = False
    side.hook = lambda event: event[0] == "head" and side.answer(1, 200)
    assert side.receive(head(1, GET)) == 0
    assert reset_of(side) == INTERNAL
    clean(side)


def test_a_request_that_was_answered_whole_and_left_is_released():
    side = begun()
    side.takes = False
    side.hook = lambda event: event[0] == "head" and side.answer(1, 200, end=True)
    assert side.receive(head(1, GET)) == 0
    assert [type(f).__name__ for f in frames(side.take())] == ["HeadersFrame"]
    assert side.ids() == []
    clean(side)


# ---- when memory ends ------------------------------------------------------------------------------------


def waiting() -> tuple[Side, int]:
    """A server with 50 bytes of an answer behind a window that is shut."""
    side = begun()
    assert side.receive(raw(4, 0, 0, b"\0\4\0\0\0\x64") + head(1, GET)) == 0
    assert side.answer(1, 200) == 0
    assert side.data(1, b"x" * 150) == 0
    side.take()
    side.events.clear()
    return side, 1


def test_trailers_that_find_no_memory_when_their_turn_comes_end_the_stream_aloud():
    side, sid = waiting()
    assert side.trailers(sid, [(b"x-long", bytes(33 + i % 90 for i in range(3 * PAGE)))]) == 0
    assert side.receive(raw(8, 0, sid, b"\0\0\0\x64")) == 0
    side.room(PAGE)  # for the DATA, not for the trailers
    out = frames(side.take())
    assert [type(f).__name__ for f in out] == ["DataFrame", "RstStreamFrame"]
    assert out[-1].error_code == INTERNAL
    assert side.events == [("reset", sid, INTERNAL, False)]
    assert side.failed() == (0, "")
    side.room()
    assert side.receive(head(3, GET)) == 0
    side.reset(3, CANCEL)
    clean(side)


def test_trailers_that_nobody_can_keep_are_not_taken():
    side, sid = waiting()
    side.room(0)
    assert side.trailers(sid, [(b"grpc-status", b"0")]) == ENOMEM
    side.room()
    assert side.faults() == []
    assert side.trailers(sid, [(b"grpc-status", b"0")]) == 0
    assert side.receive(raw(8, 0, sid, b"\0\0\0\x64")) == 0
    assert [type(f).__name__ for f in frames(side.take())] == ["DataFrame", "HeadersFrame"]
    assert side.state(sid) == CLOSED
    side.release(sid)
    clean(side)


def test_trailers_larger_than_any_block_are_not_taken():
    side, sid = waiting()
    assert side.trailers(sid, [(b"x", b"v" * (1 << 18))] * 2) == ENOMEM
    assert side.trailers(sid, [(b"grpc-status", b"0")]) == 0
    assert side.receive(raw(8, 0, sid, b"\0\0\0\x64")) == 0
    side.take()
    assert side.state(sid) == CLOSED
    side.release(sid)
    clean(side)


@pytest.mark.parametrize("what", ["head", "trailers", "end", "data"])
def test_what_finds_no_memory_is_not_sent_and_may_be_tried_again(what):
    side = begun()
    assert side.receive(head(1, GET)) == 0
    if what != "head":
        assert side.answer(1, 200) == 0
    side.take()
    send = {
        "head": lambda: side.answer(1, 200, end=True),
        "trailers": lambda: side.trailers(1, [(b"a", b"b")]),
        "end": lambda: side.end(1),
        "data": lambda: side.data(1, b"x", True),
    }[what]
    side.room(0)
    assert send() == ENOMEM
    assert side.state(1) != CLOSED
    assert side.faults() == []
    side.room()
    assert side.take() == b""
    assert send() == 0
    assert len(frames(side.take())) == 1
    assert side.state(1) == CLOSED
    side.release(1)
    clean(side)


def test_a_head_that_found_no_memory_was_not_sent():
    """So who takes the request back then counts as one who takes requests back."""
    side = begun(streams=2000)
    for sid in range(1, 601, 2):
        if side.receive(head(sid, GET)) < 0:
            break
        side.take()
        side.room(0)
        assert side.answer(sid, 200) == ENOMEM
        side.room()
        if side.receive(raw(3, 0, sid, b"\0\0\0\x08")) < 0:
            break
    assert side.failed()[0] == CALM


def test_a_reset_that_finds_no_memory_ends_the_connection():
    side = begun()
    assert side.receive(head(1, GET)) == 0
    side.take()
    side.room(0)
    side.reset(1, CANCEL)
    assert side.failed()[0] == INTERNAL
    side.room()
    assert side.receive(b"more") < 0
    clean(side)


# ---- callbacks that act ----------------------------------------------------------------------------------


class Actor:
    """Does something to any stream whenever it is called; a polite one: only what makes messages."""

    def __init__(self, side: Side, source: random.Random, *, is_server: bool, polite: bool = False) -> None:
        self.side, self.source, self.depth, self.opened = side, source, 0, 0
        self.is_server, self.polite, self.answered = is_server, polite, set()
        side.hook = self

    def __call__(self, event: tuple) -> None:
        side, source = self.side, self.source
        if self.depth > 2:
            return
        self.depth += 1
        for _ in range(source.choice((0, 1, 1, 2, 4))):
            self.act(side, source)
        self.depth -= 1

    def act(self, side: Side, source: random.Random) -> None:
        there = side.ids()
        what = source.randrange(20)
        if what == 0 and source.random() < 0.1:  # as a connection that is torn down, all but for the struct
            for sid in there:
                side.reset(sid, CANCEL)
            return
        if what == 1 and not self.is_server and self.opened < 50:
            self.opened += bool(
                side.request(b"POST", b"/", [(b"host", b"a.test")], end=source.random() < 0.3)
            )
            return
        if not there:
            return
        sid = source.choice(there)
        if side.state(sid) == CLOSED:
            side.release(sid)
        elif what < 4:
            side.reset(sid, CANCEL)
        elif self.polite and self.is_server and sid not in self.answered:
            self.answered.add(sid)
            side.answer(sid, 200, end=source.random() < 0.2)
        elif what < 8 and self.polite:
            side.give(sid, 0)
        elif what < 8:
            side.answer(sid, 200, [(b"x", b"y" * source.randrange(300))], end=source.random() < 0.2)
        elif what < 13:
            side.data(
                sid, b"d" * source.choice((0, 1, 100, 20000)), source.random() < 0.3, source.random() < 0.5
            )
        elif what < 15:
            side.end(sid)
        elif what < 17:
            side.trailers(sid, [(b"t", b"v" * source.randrange(200))])
        elif what < 18 and not self.polite:  # the package takes nothing behind a GOAWAY
            side.goaway(source.random() < 0.02)
        else:
            side.give(sid, 0)


def frames_of_a_client(source: random.Random, coder: hpack.Encoder, ids: list[int]) -> bytes:
    """Mostly what a client may say, in no sensible order."""
    what = source.randrange(14)
    sid = source.choice(ids) if ids else 1
    end = source.random() < 0.4
    if what < 4 or not ids:
        sid = (ids[-1] if ids else -1) + 2
        ids.append(sid)
        return raw(1, 4 | end, sid, coder.encode(POST))
    if what < 7:
        return raw(0, end, sid, b"x" * source.choice((0, 1, 1000)))
    if what == 7:
        return raw(3, 0, sid, b"\0\0\0\x08")
    if what < 10:
        return raw(8, 0, source.choice((0, sid)), source.choice((1, 100, 70000)).to_bytes(4, "big"))
    if what == 10:
        return raw(4, 0, 0, b"\0\4" + source.choice((0, 10, 100000)).to_bytes(4, "big"))
    if what == 11 and end:
        return raw(8, 0, sid, b"\0\0\0\0")
    if what == 12 and end:
        return raw(1, 5, sid, coder.encode([("t", "v")]))
    return raw(6, 0, 0, b"12345678")


def frames_of_a_server(source: random.Random, coder: hpack.Encoder, ids: list[int]) -> bytes:
    what = source.randrange(14)
    sid = source.choice(ids)
    end = source.random() < 0.4
    if what < 5:
        return raw(1, 4 | end, sid, coder.encode([(":status", source.choice(("103", "200")))]))
    if what == 5:
        return raw(1, 5, sid, coder.encode([("t", "v")]))
    if what == 6 and end:
        return raw(7, 0, 0, source.choice(ids).to_bytes(4, "big") + bytes(4))
    return frames_of_a_client(source, coder, list(ids)) if what > 8 else raw(0, end, sid, b"x" * 100)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), is_server=st.booleans(), link=st.booleans())
def test_callbacks_may_do_anything_to_any_stream(seed, is_server, link):
    source = random.Random(seed)
    side = begun(
        server=is_server,
        link=link,
        max_streams=20,
        streams=40,
        stream_window=source.choice((100, 65535)),
        conn_window=65535,
    )
    actor = Actor(side, source, is_server=is_server)
    coder, ids = hpack.Encoder(), []
    if not is_server:
        ids = [side.request(b"POST", b"/", [(b"host", b"a.test")], end=False) for _ in range(10)]
        ids = [sid for sid in ids if sid] or [1]
    for step in range(source.randrange(5, 120)):
        data = (frames_of_a_client if is_server else frames_of_a_server)(source, coder, ids)
        for _ in range(source.choice((0, 0, 1, 3))):
            data += (frames_of_a_client if is_server else frames_of_a_server)(source, coder, ids)
        code = side.receive(data, 1000 + step * 100)
        assert side.faults() == []
        if code < 0:
            break
        if source.random() < 0.5:
            side.take()
            assert side.faults() == []
        if source.random() < 0.3:
            actor(("tick",))
    side.hook = None
    for sid in side.ids():
        side.reset(sid, CANCEL)
    side.take()
    clean(side)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), is_server=st.booleans())
def test_whatever_callbacks_do_the_peer_of_the_package_understands(seed, is_server):
    """What we say in the midst of parsing is HTTP/2, in order and within the windows."""
    source = random.Random(seed)
    side = Side(server=is_server, streams=200)
    peer = client() if is_server else server()
    swap(side, peer)
    Actor(side, source, is_server=is_server, polite=True)
    for step in range(20):
        if is_server:
            sid = 2 * step + 1
            peer.send_headers(sid, POST)
            peer.send_data(sid, b"x" * 100, end_stream=source.random() < 0.5)
        else:
            side.request(b"POST", b"/", [(b"host", b"a.test")], end=source.random() < 0.5)
        for _ in range(20):
            out = side.take()
            told = peer.receive_data(out) if out else []
            reset = {e.stream_id for e in kinds(told, h2.events.StreamReset)}
            for event in kinds(told, h2.events.RequestReceived):
                if event.stream_id not in reset and source.random() < 0.7:
                    peer.send_headers(event.stream_id, [(":status", "200")], end_stream=source.random() < 0.5)
            data = peer.data_to_send()
            assert side.receive(data) == 0, side.failed()
            assert side.faults() == []
            if not out and not data:
                break
    side.hook = None
    for sid in side.ids():
        side.reset(sid, CANCEL)
    side.take()
    clean(side)
