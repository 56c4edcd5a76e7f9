"""HTTP/2 through one worker with origins and clients that fail: resets, GOAWAY, lost connections, windows that shrink.

What is lost is told with the right status or code, what is safe is done again, and nothing is done twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from helpers import free_port, h2raw, wait_for
from helpers.h2origin import Origin, Request
from helpers.h2raw import (
    HTTP_1_1_REQUIRED,
    INTERNAL_ERROR,
    REFUSED_STREAM,
    WINDOW_MOST,
    dial,
)  # fmt: skip
from helpers.worker import Upstream, serving
from integration.h2edges import before, worker_config

H2_CODES = range(HTTP_1_1_REQUIRED + 1)
PATH = "/h2/x"


def once(fault: Callable[[Request], None]) -> Callable[[Request], None]:
    """The first request meets the fault, the others are answered."""
    seen = []

    def inline(request: Request) -> None:
        seen.append(request)
        if len(seen) == 1:
            fault(request)
        else:
            request.answer(200, [], b"ok")

    return inline


# ---- streams that the origin resets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", H2_CODES)
def test_a_stream_reset_before_its_answer_is_503_and_sent_once(code: int) -> None:
    origin = Origin(inline=lambda request: request.reset(code))
    with before(origin) as proxy:
        client = dial(proxy.port)
        for method in ("GET", "POST"):
            assert client.answer(client.request(method, PATH)).status == 503
        assert proxy.get(PATH)[0] == 503
        # REFUSED_STREAM says that nothing was done: again, once
        assert len(origin.requests) == (6 if code == REFUSED_STREAM else 3)
        assert client.get("/direct").status == 200
        client.close()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("code", H2_CODES)
def test_a_stream_reset_in_the_middle_of_its_answer(code: int, version: int) -> None:
    def inline(request: Request) -> None:
        request.head(200, [("x-a", "b")])
        request.link.say(lambda c: c.send_data(request.id, b"half"))
        request.reset(code)

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        if version == 2:
            client = dial(proxy.port)
            sid = client.request(path=PATH)
            assert client.reset(sid) == (code or INTERNAL_ERROR)  # NO_ERROR would say that it is complete
            assert client.streams[sid].status == 200
            assert client.get("/direct").status == 200
            client.close()
        else:
            peer = proxy.dial()
            peer.send(f"GET {PATH} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            rest = peer.rest()
            assert rest.startswith(b"HTTP/1.1 200 ") and not rest.endswith(b"0\r\n\r\n")
        assert len(origin.requests) == 1
        proxy.wait_counter("rq_upstream_truncated", 1)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_refused_stream_is_tried_again_at_once_whatever_its_method(method: str) -> None:
    origin = Origin(inline=once(lambda request: request.reset(REFUSED_STREAM)))
    with before(origin) as proxy:
        client = dial(proxy.port)
        answer = client.answer(client.request(method, PATH, body=b"x" * 3000 if method != "GET" else None))
        assert (answer.status, answer.body) == (200, b"ok")
        assert [r[":method"] for r in origin.requests] == [method] * 2
        assert proxy.counter("up_refused") == 1 and proxy.counter("rq_retry_reused") == 1
        client.close()
    if method != "GET":
        assert origin.requests[1].body == b"x" * 3000


def test_a_refused_stream_goes_to_another_endpoint() -> None:
    bad, good = Origin(inline=lambda request: request.reset(REFUSED_STREAM)), Origin()
    with before(bad, good) as proxy:
        client = dial(proxy.port)
        statuses = [client.answer(client.request("POST", PATH)).status for _ in range(12)]
        assert good.requests and bad.requests
        assert statuses.count(200) >= len(good.requests) > 0 and set(statuses) <= {200, 503}
        client.close()


def test_a_stream_that_is_reset_does_not_disturb_its_neighbours() -> None:
    def script(request: Request) -> None:
        if request[":path"] == "/h2/reset":
            request.reset(INTERNAL_ERROR)
        else:
            request.wait_end()
            request.answer(200, [], bytes(request.body))

    origin = Origin(script)
    with before(origin) as proxy:
        client = dial(proxy.port)
        body = bytes(range(256)) * 500
        good = [client.request("POST", "/h2/good", body=body, end=False) for _ in range(10)]
        for _ in range(20):
            assert client.get("/h2/reset").status == 503
        for sid in good:
            client.send(h2raw.data(sid, b"", True))
            assert client.answer(sid).body == body
        assert origin.connections == 1
        client.close()


# ---- GOAWAY ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_goaway_that_takes_nothing_loses_nothing(method: str) -> None:
    origin = Origin(inline=once(lambda request: request.link.goaway(0)))
    with before(origin) as proxy:
        client = dial(proxy.port)
        answer = client.answer(client.request(method, PATH, body=b"abc" if method == "POST" else None))
        assert (answer.status, answer.body) == (200, b"ok")
        assert origin.connections == 2 and len(origin.requests) == 2
        client.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_beyond_the_last_of_goaway_are_repeated_elsewhere(method: str) -> None:
    first: list[Request] = []
    answered: list[str] = []

    def inline(request: Request) -> None:
        if request.link is origin.links[0]:
            first.append(request)
            if len(first) == 5:
                request.link.goaway(first[1].id)
                for one in first[:2]:
                    answered.append(one[":path"])
                    one.answer(200, [], b"ok")
        else:
            answered.append(request[":path"])
            request.answer(200, [], b"ok")

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        sids = [client.request(method, f"{PATH}/{i}") for i in range(5)]
        assert [client.answer(sid).status for sid in sids] == [200] * 5
        assert sorted(answered) == [f"{PATH}/{i}" for i in range(5)]  # each once
        assert origin.connections == 2
        # what has said GOAWAY is closed behind its last stream
        origin.wait(lambda: origin.links[0].over, "the end of the first connection")
        client.close()


def test_goaway_in_two_steps_loses_nothing_under_load() -> None:
    """Each connection of the origin is drained after ten requests, as Envoy, nginx and gRPC servers do."""
    answered: list[str] = []

    def inline(request: Request) -> None:
        n = len(request.link.streams)
        if n > 10:
            return  # beyond the last: not looked at
        if n == 10:
            request.link.goaway(WINDOW_MOST)
            request.link.goaway(request.id)
        answered.append(request[":path"])
        request.answer(200, [], request[":path"].encode())

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        for turn in range(20):
            paths = [f"{PATH}/{turn}.{i}" for i in range(8)]
            sids = [client.request("POST", path) for path in paths]
            assert [client.answer(sid).body.decode() for sid in sids] == paths
        assert len(answered) == len(set(answered)) == 160  # nothing was done twice
        assert origin.connections >= 16
        client.close()


def test_an_origin_whose_connections_take_one_request_each_loses_nothing() -> None:
    """The last of a dozen moves on eleven times; no count of retries ends that, for nobody has looked at it."""
    answered: list[str] = []

    def inline(request: Request) -> None:
        if len(request.link.streams) == 1:
            request.link.goaway(request.id)
            answered.append(request[":path"])
            request.answer(200, [], b"ok")

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.answer(client.request("POST", PATH)).status == 200  # its SETTINGS are known now
        sids = [client.request("POST", f"{PATH}/{i}") for i in range(12)]
        assert [client.answer(sid).status for sid in sids] == [200] * 12
        assert sorted(answered[1:]) == sorted(f"{PATH}/{i}" for i in range(12))
        client.close()


def test_an_origin_that_says_nothing_but_goaway_is_not_asked_for_ever() -> None:
    origin = Origin(inline=lambda request: request.link.goaway(0))
    with before(origin) as proxy:
        client = dial(proxy.port)
        answer = client.answer(client.request("POST", PATH))
        assert answer.status == 503
        assert len(origin.requests) == 1 + 16
        client.close()


def test_goaway_with_an_error_ends_what_it_ends() -> None:
    def fault(request: Request) -> None:
        request.link.goaway(request.id, INTERNAL_ERROR)
        request.link.close()

    origin = Origin(inline=once(fault))
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.answer(client.request("POST", PATH)).status == 503
        assert client.get(PATH).status == 200
        client.close()


# ---- concurrency -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_what_the_origin_allows_at_once_is_kept_and_more_connections_are_opened(limit: int) -> None:
    release = threading.Event()

    def script(request: Request) -> None:
        if request[":path"] == "/h2/held":
            release.wait(10)
        request.answer(200, [], b"ok")

    origin = Origin(script, limit=limit)
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.get(PATH).body == b"ok"  # its SETTINGS are known
        sids = [client.request("POST", "/h2/held") for _ in range(12)]
        origin.wait_requests(1 + 12)
        assert origin.connections >= 12 // limit
        assert client.get("/direct").status == 200
        release.set()
        assert [client.answer(sid).status for sid in sids] == [200] * 12
        client.close()


@pytest.mark.parametrize("limit", [1, 2])
def test_a_burst_at_a_connection_whose_settings_are_not_known_yet(limit: int) -> None:
    origin = Origin(limit=limit)
    with before(origin) as proxy:
        client = dial(proxy.port)
        sids = [client.request("POST", PATH) for _ in range(20)]
        assert [client.answer(sid).status for sid in sids] == [200] * 20
        assert len(origin.requests) == 20
        client.close()


def test_a_limit_that_falls_while_streams_are_open() -> None:
    held: list[Request] = []
    origin = Origin(inline=held.append)
    with before(origin) as proxy:
        client = dial(proxy.port)
        first = [client.request("POST", PATH) for _ in range(6)]
        origin.wait_requests(6)
        origin.links[0].raw(h2raw.settings((h2raw.MAX_CONCURRENT_STREAMS, 2)))
        origin.wait(lambda: origin.links[0].h2.local_settings is not None)
        client.ping()
        proxy.get("/direct")
        more = [client.request("POST", PATH) for _ in range(3)]
        origin.wait_requests(9)
        for request in held:
            request.answer(200, [], b"ok")
        assert [client.answer(sid).status for sid in first + more] == [200] * 9
        client.close()


# ---- connections that end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_was_not_answered_on_a_lost_connection_is_repeated_once(method: str, reset: bool) -> None:
    seen: list[Request] = []

    def inline(request: Request) -> None:
        seen.append(request)
        if len(seen) == 2:
            request.link.close(reset)
        else:
            request.answer(200, [], b"ok")

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.get(PATH).status == 200
        assert client.answer(client.request(method, PATH)).status == 200
        assert len(seen) == 3 and origin.connections == 2 and proxy.counter("rq_retry_reused") == 1
        client.close()


@pytest.mark.parametrize("reset", [False, True])
def test_a_post_on_a_lost_connection_is_503_and_sent_once(reset: bool) -> None:
    origin = Origin(inline=lambda r: r.answer() if r[":method"] == "GET" else r.link.close(reset))
    with before(origin) as proxy:
        client = dial(proxy.port)
        for turn in range(1, 4):
            assert client.get(PATH).status == 200
            assert client.answer(client.request("POST", PATH, body=b"x")).status == 503
            assert len(origin.requests) == 2 * turn
        client.close()


def test_a_connection_that_is_lost_again_and_again_is_not_tried_for_ever() -> None:
    origin = Origin(inline=lambda r: r.answer() if r[":path"] == "/h2/good" else r.link.close())
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.get("/h2/good").status == 200
        assert client.get(PATH).status == 503
        assert len([r for r in origin.requests if r[":path"] == PATH]) == 2
        client.close()


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_lost_in_the_middle_of_answers(reset: bool) -> None:
    running: list[Request] = []

    def inline(request: Request) -> None:
        request.head(200)
        request.link.say(lambda c: c.send_data(request.id, b"half"))
        running.append(request)
        if len(running) == 5:
            request.link.close(reset)

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        sids = [client.request(path=PATH) for _ in range(5)]
        codes = {client.over(sid).reset for sid in sids if client.over(sid).status == 200}
        # a reset may have overtaken what was sent before it
        assert codes <= {INTERNAL_ERROR} and (reset or codes)
        assert all(not client.streams[sid].ended or client.streams[sid].status == 503 for sid in sids)
        assert client.get("/direct").status == 200
        client.close()


def test_idle_connections_that_the_origin_closes_cause_no_error() -> None:
    origin = Origin()
    with before(origin) as proxy:
        client = dial(proxy.port)
        for turn in range(1, 21):
            for method in ("GET", "POST"):
                assert client.answer(client.request(method, PATH)).status == 200
            if turn % 2:
                origin.links[-1].goaway(3)
            origin.links[-1].close()
            wait_for(lambda: proxy.segment.worker(0)["upstreams"] == 0, what="the end of the connection")
        client.close()


def test_an_idle_timeout_without_goaway_is_learnt_and_a_post_does_not_meet_it() -> None:
    """As hypercorn has it: the connection is closed, and nobody can know whether the request was seen."""
    seconds = 0.3

    def inline(request: Request) -> None:
        request.answer(200, [], b"ok")
        timer = threading.Timer(seconds, request.link.close)
        timer.daemon = True
        timer.start()

    origin = Origin(inline=inline)
    with before(origin) as proxy:
        client = dial(proxy.port)
        assert client.answer(client.request("POST", PATH)).status == 200
        proxy.wait_counter("up_cx_idle_closed", 1)
        for i in range(20):
            assert client.answer(client.request("POST", PATH)).status == 200
            time.sleep(seconds - 0.003 + i % 5 * 0.001)  # the race is what is tested
        assert origin.connections == 21
        client.close()


def test_nobody_listens() -> None:
    with serving(config=worker_config(two=free_port())) as proxy:
        client = dial(proxy.port)
        sids = [client.request("POST", PATH) for _ in range(10)]
        assert [client.answer(sid).status for sid in sids] == [503] * 10
        client.close()


def test_an_origin_that_does_not_speak_http2_is_502_or_503() -> None:
    one = Upstream(lambda peer: (peer.head(), peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), None)[2])
    with serving(one, config=worker_config(two=one.port)) as proxy:
        client = dial(proxy.port)
        assert client.get(PATH).status in (502, 503)
        client.close()


# ---- windows that change ---------------------------------------------------------------------------------------------


def test_an_origin_that_takes_its_window_back_in_the_middle() -> None:
    """RFC 9113 6.9.2: the proxy's window is negative then, and it has to wait."""
    shrunk, go_on = threading.Event(), threading.Event()

    def script(request: Request) -> None:
        request.wait(lambda: len(request.body) >= 65535)
        origin.links[0].set({h2raw.INITIAL_WINDOW_SIZE: 10})
        request.wait(lambda: request.link.h2.local_settings.initial_window_size == 10)
        shrunk.set()
        assert go_on.wait(10)
        link = request.link
        # from -65525 to 1, and on
        link.say(lambda c: c.increment_flow_control_window(65526, request.id))
        for _ in range(100):
            link.say(lambda c: c.increment_flow_control_window(20_000, request.id))
            link.say(lambda c: c.increment_flow_control_window(20_000))
        request.wait_end()
        request.answer(200, [], bytes(request.body))

    origin = Origin(script, credit=False)
    body = bytes(range(256)) * 2000
    with before(origin) as proxy:
        client = dial(proxy.port)
        sid = client.request("POST", PATH, body=body[:100_000], end=False)
        assert shrunk.wait(10)
        assert len(origin.requests[0].body) == 65535
        go_on.set()
        client.send_data(sid, body[100_000:])
        assert client.answer(sid).body == body
        client.close()


def test_a_client_that_takes_its_window_back_in_the_middle() -> None:
    body = bytes(range(256)) * 2000
    origin = Origin()
    origin.reply = (200, [], body)
    with before(origin) as proxy:
        client = dial(proxy.port, credit=False)
        sid = client.request(path=PATH)
        client.until(lambda: len(client.streams[sid].body) == 65535)
        client.settled = False
        client.send(h2raw.settings((h2raw.INITIAL_WINDOW_SIZE, 0)))
        client.until(lambda: client.settled)
        client.send(h2raw.window_update(0, 1 << 20) + h2raw.window_update(sid, 65535))  # to 0
        client.ping()
        assert len(client.streams[sid].body) == 65535
        client.send(h2raw.window_update(sid, 1))
        client.until(lambda: len(client.streams[sid].body) == 65536)
        client.send(h2raw.settings((h2raw.INITIAL_WINDOW_SIZE, 1 << 20)))
        assert client.answer(sid).body == body
        client.close()
