"""HTTP/2 through one worker with clients that leave, streams that stall beside others, and drains."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from helpers import h2raw, wait_for
from helpers.h2origin import Origin, Request
from helpers.h2raw import CANCEL, INTERNAL_ERROR, NO_ERROR, WINDOW_MOST, Client, dial
from helpers.worker import Peer, WorkerProxy, serving
from integration.h2edges import H1Origin, before, read_answer, read_head, worker_config

PATH = "/h2/x"


# ---- clients that leave ----------------------------------------------------------------------------------------------


def half_close(client: Client) -> None:
    client.sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [Client.vanish, Client.close, half_close])
def test_a_client_that_leaves_in_the_middle_of_an_upload(leave: Callable[[Client], None]) -> None:
    origin = Origin(lambda request: request.wait_end())
    with before(origin) as proxy:
        client = dial(proxy.port)
        for _ in range(3):
            client.request("POST", PATH, body=b"half", end=False)
        origin.wait(lambda: [bytes(r.body) for r in origin.requests] == [b"half"] * 3)
        leave(client)
        origin.wait(lambda: all(r.reset_by is not None for r in origin.requests), "three resets")
        assert [r.reset_by for r in origin.requests] == [CANCEL] * 3
        assert not any(r.ended for r in origin.requests)
        proxy.wait_counter("rq_dc", 3)
        proxy.wait_quiet()
        other = dial(proxy.port)
        other.request("POST", PATH)
        origin.wait_requests(4)
        assert origin.connections == 1  # the connection to the origin goes on
        for one in (client, other):
            one.close()


def test_a_client_of_http1_that_leaves_in_the_middle_of_an_upload() -> None:
    origin = Origin(lambda request: request.wait_end())
    with before(origin) as proxy:
        peer = proxy.dial()
        peer.send(f"POST {PATH} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf".encode())
        origin.wait(lambda: origin.requests and origin.requests[0].body == b"half")
        peer.reset()
        origin.wait(lambda: origin.requests[0].reset_by is not None)
        assert origin.requests[0].reset_by == CANCEL
        proxy.wait_quiet()


@pytest.mark.parametrize("code", [NO_ERROR, INTERNAL_ERROR, CANCEL, h2raw.ENHANCE_YOUR_CALM])
def test_a_clients_reset_is_carried_to_the_origin(code: int) -> None:
    origin = Origin(lambda request: request.wait_end())
    with before(origin) as proxy:
        client = dial(proxy.port)
        sid = client.request("POST", PATH, body=b"half", end=False)
        origin.wait(lambda: origin.requests and origin.requests[0].body == b"half")
        client.cancel(sid, code)
        origin.wait(lambda: origin.requests[0].reset_by is not None)
        assert origin.requests[0].reset_by == (code or CANCEL)
        assert client.get("/direct").status == 200
        client.close()


def test_a_clients_reset_ends_a_connection_of_http1() -> None:
    one = H1Origin()
    ended = threading.Event()

    def handler(peer: Peer) -> None:
        read_head(peer)
        peer.rest()
        ended.set()

    one.handler = handler
    with serving(one, config=worker_config(one.port)) as proxy:
        client = dial(proxy.port)
        sid = client.request("POST", "/one", body=b"half", end=False)
        wait_for(lambda: one.connections)
        client.cancel(sid)
        assert ended.wait(10)
        assert client.get("/direct").status == 200
        client.close()


def test_a_reset_when_the_answer_is_on_its_way_stops_the_origin() -> None:
    stopped: list[int] = []

    def script(request: Request) -> None:
        request.head(200)
        try:
            while True:
                request.data(bytes(16384))
        finally:
            stopped.append(request.wait_reset())

    origin = Origin(script)
    with before(origin) as proxy:
        client = dial(proxy.port)
        sid = client.request(path=PATH)
        client.until(lambda: len(client.streams[sid].body) > 200_000)
        client.cancel(sid)
        wait_for(lambda: stopped == [CANCEL])
        assert client.get("/direct").status == 200
        client.close()


# ---- the connection lives while streams are busy ---------------------------------------------------------------------


def test_ping_is_answered_while_a_stream_uploads_to_an_origin_that_takes_nothing() -> None:
    origin = Origin(inline=lambda request: None, credit=False)
    with before(origin) as proxy:
        client = dial(proxy.port)
        client.settle()
        sid = client.request("POST", PATH, end=False)
        while min(client.windows[sid], client.window) > 0 and len(client.frames) < 1000:
            n = min(client.windows[sid], client.window, 16384)
            client.send_data(sid, bytes(n), end=False)
        client.ping()
        assert client.get("/direct").status == 200
        assert proxy.segment.worker(0)["mem_bytes"] < 2 << 20
        client.close()


def test_one_stalled_upload_does_not_stop_the_others() -> None:
    def script(request: Request) -> None:
        if request[":path"] == "/h2/sum":
            request.wait_end()
            request.answer(200, [], b"%d" % len(request.body))

    stalled, good = Origin(script, credit=False), H1Origin()
    with serving(stalled, good, config=worker_config(good.port, stalled.port)) as proxy:
        client = dial(proxy.port)
        client.settle()
        window = client.peer[h2raw.INITIAL_WINDOW_SIZE]
        for _ in range(4):
            client.request("POST", "/h2/stalled", body=bytes(window), end=False)
        answer = client.answer(client.request("POST", "/one", body=bytes(3_000_000)))
        assert answer.body == b"ok" and len(good.seen[-1].body) == 3_000_000
        client.close()


def test_answers_share_the_connection_fairly() -> None:
    """A large answer, which goes on for as long as the test wants, does not keep small ones waiting."""
    enough = threading.Event()

    def script(request: Request) -> None:
        request.head(200)
        while not enough.is_set():
            request.data(bytes(1 << 17))
        request.end()

    origin, one = Origin(script), H1Origin()
    with serving(one, origin, config=worker_config(one.port, origin.port)) as proxy:
        client = dial(proxy.port, (h2raw.INITIAL_WINDOW_SIZE, WINDOW_MOST))
        client.send(h2raw.window_update(0, WINDOW_MOST - 65535))
        large = client.request(path=PATH)
        client.until(lambda: len(client.streams[large].body) > 100_000)
        for _ in range(5):
            assert client.get("/one").body == b"ok"
        enough.set()
        assert client.answer(large).ended
        client.close()


# ---- drain -----------------------------------------------------------------------------------------------------------


class Gone(WorkerProxy):
    """A worker that has left as it was told to."""

    @property
    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self.listener.close()


def test_a_drain_is_goaway_in_two_steps_and_streams_complete() -> None:
    held: list[Request] = []
    origin = Origin(inline=held.append)
    with before(origin, options={"drain_idle_ms": 300}) as proxy:
        client, idle = dial(proxy.port), dial(proxy.port)
        sids = [client.request("POST", PATH) for _ in range(3)]
        idle.settle()
        origin.wait_requests(3)
        proxy.drain(20)
        assert client.goaway() == (WINDOW_MOST, NO_ERROR)
        late = client.request("POST", PATH)  # as if it had been on its way
        client.until(lambda: len(client.goaways) == 2)
        assert client.goaways[1] == (late, NO_ERROR)
        assert idle.goaway() == (WINDOW_MOST, NO_ERROR)
        idle.end()
        assert idle.goaways == [(WINDOW_MOST, NO_ERROR), (0, NO_ERROR)]
        refused = client.request("POST", PATH)  # beyond the last: nobody has seen it
        client.ping()
        origin.wait_requests(4)
        for request in held:
            request.answer(200, [], b"done")
        for sid in [*sids, late]:
            assert client.answer(sid).body == b"done"
        client.end()
        assert client.streams[refused].status == 0 and len(origin.requests) == 4
        assert proxy.wait_exit() == 0
        proxy.__class__ = Gone
        for one in (client, idle):
            one.close()


def test_a_drain_is_bounded() -> None:
    origin = Origin(inline=lambda request: None)
    with before(origin) as proxy:
        client = dial(proxy.port)
        client.request("POST", PATH)
        origin.wait_requests(1)
        proxy.drain(0.3)
        assert proxy.wait_exit() == 0
        client.end()
        proxy.__class__ = Gone
        client.close()


def test_clients_of_http1_are_answered_by_a_worker_that_drains_its_http2_upstreams() -> None:
    held: list[Request] = []
    origin = Origin(inline=held.append)
    with before(origin, options={"drain_idle_ms": 100}) as proxy:
        peer = proxy.dial()
        peer.send(f"GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        origin.wait_requests(1)
        proxy.drain(20)
        held[0].answer(200, [], b"done")
        assert read_answer(peer).body == b"done"
        assert proxy.wait_exit() == 0
        origin.wait(lambda: origin.links[0].goaways == [NO_ERROR], "GOAWAY")
        proxy.__class__ = Gone
