"""The HTTP/2 client and origin of the tests against each other: what the tests of the proxy stand on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from helpers import h2raw
from helpers.h2origin import Gone, Origin, Request
from helpers.h2raw import dial


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


def test_a_request_with_everything(origin: Origin) -> None:
    def script(request: Request) -> None:
        request.interim(103, [("link", "</x>")])
        request.wait_end()
        request.answer(201, [("x-a", "b")], bytes(request.body), [("x-sum", "1")])

    origin.script = script
    client = dial(origin.port)
    body = bytes(range(256)) * 1000
    sid = client.request("POST", "/up?x=1", [("te", "trailers")], body=body, trailers=[("x-end", "y")])
    answer = client.answer(sid)
    assert (answer.status, answer["x-a"], bytes(answer.body)) == (201, "b", body)
    assert answer.interim == [(103, [("link", "</x>")])] and answer.trailers == [("x-sum", "1")]
    (seen,) = origin.requests
    assert seen[":path"] == "/up?x=1" and seen.body == body and seen.trailers == [("x-end", "y")]
    client.settle()
    client.ping()
    client.close()


def test_blocks_in_every_form(origin: Origin) -> None:
    client = dial(origin.port)
    fields = [*h2raw.pseudo(), ("x-long", "v" * 300), ("cookie", "secret")]
    for huffman, never, pieces, pad in ((False, True, 5, 0), (True, False, 1, None), (True, True, 40, 17)):
        sid = client.new_id()
        block = client.block(fields, huffman=huffman, never=never)
        assert (b"secret" in block) == (not huffman and never)  # else: coded, or said before
        client.send(h2raw.headers(sid, block, True, pieces=pieces, pad=pad, priority=b"\0\0\0\0\7"))
        assert client.answer(sid).body == b"ok"
    sid = client.send_head(fields)
    assert client.answer(sid).status == 200
    assert all(request.fields == [*fields] for request in origin.requests)
    client.close()


def test_windows_are_kept(origin: Origin) -> None:
    big = bytes(1_000_000)
    origin.reply = (200, [], big)
    client = dial(origin.port, (h2raw.INITIAL_WINDOW_SIZE, 1000))
    sids = [client.request() for _ in range(5)]
    assert all(client.answer(sid).body == big for sid in sids)
    held = dial(origin.port, (h2raw.INITIAL_WINDOW_SIZE, 10), credit=False)
    sid = held.request()
    held.until(lambda: len(held.streams[sid].body) == 10)
    held.ping()
    assert not held.streams[sid].over
    held.send(h2raw.window_update(sid, 100))
    held.until(lambda: len(held.streams[sid].body) == 110)
    for one in (client, held):
        one.close()


def test_resets_and_goaway(origin: Origin) -> None:
    gone: list[Request] = []
    waiting = threading.Event()

    def script(request: Request) -> None:
        if request[":path"] == "/reset":
            request.reset(h2raw.INTERNAL_ERROR)
        elif request[":path"] == "/last":
            request.link.goaway(request.id)
            request.wait_end()
            request.answer()
        else:
            waiting.set()
            try:
                request.head(200)
                request.data(b"x" * 100_000)
            except Gone:
                gone.append(request)

    origin.script = script
    client = dial(origin.port)
    assert client.reset(client.request(path="/reset")) == h2raw.INTERNAL_ERROR
    sid = client.request("POST", "/wait", end=False)
    assert waiting.wait(10)
    client.cancel(sid)
    assert client.answer(client.request(path="/last")).status == 200
    assert client.goaway() == (5, h2raw.NO_ERROR)
    assert origin.requests[1].reset_by == h2raw.CANCEL
    client.close()


def test_what_breaks_the_protocol_is_the_origins_failure() -> None:
    origin = Origin()
    client = dial(origin.port)
    client.send(h2raw.data(1, b"on an idle stream"))
    assert client.condemned() == h2raw.PROTOCOL_ERROR
    with pytest.raises(Exception, match="RECV_DATA"):
        origin.close()
