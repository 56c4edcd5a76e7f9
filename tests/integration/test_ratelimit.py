"""Rate limits through one worker: what passes, what the answers say, who is told apart from whom."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import wait_for
from helpers.h2raw import dial
from helpers.worker import Peer, Upstream, WorkerProxy, serving, simple_config

HOUR = 3_600_000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def bucket(most: int, fill_ms: int = HOUR, per: str = "route", **more: Any) -> dict[str, Any]:
    return {"owner": "test", "most": most, "fill": most, "fill_ms": fill_ms, "per": per, **more}


@pytest.fixture
def up() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


def told(fields: dict[str, str]) -> tuple[str, ...]:
    return tuple(fields.get(f"x-ratelimit-{name}", "") for name in ("limit", "remaining", "reset"))


def test_most_pass_and_the_next_is_429_rl(up: Upstream) -> None:
    config = simple_config(up.port, limits=[bucket(3)])
    with serving(up, config=config, log=True) as proxy:
        for left, reset in (("2", "1200"), ("1", "2400"), ("0", "3600")):
            status, fields, body = proxy.get()
            assert (status, body, told(fields)) == (200, b"ok", ("3", left, reset))
            assert "retry-after" not in fields and "x-envoy-ratelimited" not in fields
        status, fields, body = proxy.get()
        assert (status, body, told(fields)) == (429, b"local_rate_limited\n", ("3", "0", "3600"))
        assert fields["retry-after"] == "1200" and fields["x-envoy-ratelimited"] == "true"
        assert len(up.heads) == 3 and proxy.counter("rq_limited") == 1
        records: list[Any] = []
        wait_for(lambda: records.extend(proxy.segment.log_records(10)) or len(records) == 4)
        record = records[-1]
        assert (record["status"], record["flags"], record["details"]) == (429, 1 << 19, "local_rate_limited")
        assert record["attempts"] == 0


def test_a_token_is_there_after_the_time_that_retry_after_tells(up: Upstream) -> None:
    with serving(up, config=simple_config(up.port, limits=[bucket(1, 1500)])) as proxy:
        assert proxy.get()[0] == 200
        status, fields, _ = proxy.get()
        assert (status, fields["retry-after"]) == (429, "2")
        time.sleep(int(fields["retry-after"]))
        assert proxy.get()[0] == 200


def test_direct_answers_and_redirects_are_limited_too() -> None:
    config = simple_config()
    config["tables"][0]["virtual_hosts"][0]["routes"] = [
        {"path": {"op": "prefix", "value": "/d"}, "direct": {"status": 204}, "limits": [bucket(1)]},
        {"redirect": {"path": "/there"}, "limits": [bucket(1, owner="other")]},
    ]
    with serving(config=config) as proxy:
        status, fields, _ = proxy.get("/d")
        assert (status, told(fields)) == (204, ("1", "0", "3600"))
        assert proxy.get("/d")[0] == 429
        status, fields, _ = proxy.get("/r")
        assert (status, told(fields)) == (301, ("1", "0", "3600"))
        assert proxy.get("/r")[0] == 429


def test_a_route_without_a_limit_says_nothing_of_one(up: Upstream) -> None:
    with serving(up) as proxy:
        assert not any(name.startswith("x-ratelimit") for name in proxy.get()[1])


def test_routes_of_one_rule_share_its_bucket(up: Upstream) -> None:
    config = simple_config(up.port)
    dests = [{"cluster": "c", "weight": 1}]
    config["tables"][0]["virtual_hosts"][0]["routes"] = [
        {"path": {"op": "prefix", "value": "/a"}, "dests": dests, "limits": [bucket(2)]},
        {"path": {"op": "prefix", "value": "/b"}, "dests": dests, "limits": [bucket(2)]},
        {"dests": dests},
    ]
    with serving(up, config=config) as proxy:
        assert [proxy.get(path)[0] for path in ("/a", "/b", "/a", "/b", "/c")] == [200, 200, 429, 429, 200]


def test_a_request_with_a_body_is_refused_at_once(up: Upstream) -> None:
    """The refusal does not wait for the body."""
    with serving(up, config=simple_config(up.port, limits=[bucket(1)])) as proxy:
        peer = proxy.dial()
        peer.send(GET)
        assert peer.answer()[0] == 200
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert peer.answer()[0] == 429
        assert len(up.heads) == 1
        peer.close()


def test_header_operations_of_the_route_are_for_the_refusal_as_well(up: Upstream) -> None:
    ops = {"set": [["x-added", "yes"]], "remove": ["x-ratelimit-reset"]}
    with serving(up, config=simple_config(up.port, limits=[bucket(1)], response_headers=ops)) as proxy:
        for status in (200, 429):
            got, fields, _ = proxy.get()
            assert got == status and fields["x-added"] == "yes"
            assert told(fields) == ("1", "0", "")


def test_the_applications_own_figures_stay(up: Upstream) -> None:
    up.response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-RateLimit-Limit: 7\r\n\r\nok"
    with serving(up, config=simple_config(up.port, limits=[bucket(1)])) as proxy:
        assert told(proxy.get()[1]) == ("7", "", "")
        assert told(proxy.get()[1]) == ("1", "0", "3600")


# ---- callers -----------------------------------------------------------------------------------------


def ask(proxy: WorkerProxy, address: str) -> tuple[int, dict[str, str]]:
    peer = Peer(socket.create_connection(("127.0.0.1", proxy.port), 10, (address, 0)))
    try:
        peer.send(GET)
        return peer.answer()[:2]
    finally:
        peer.close()


def test_callers_without_a_certificate_are_told_apart_by_address(up: Upstream) -> None:
    with serving(up, config=simple_config(up.port, limits=[bucket(2, per="identity")])) as proxy:
        for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            statuses = [ask(proxy, address)[0] for _ in range(3)]  # each from another port
            assert statuses == [200, 200, 429]


def test_who_has_used_up_its_own_does_not_use_up_that_of_all(up: Upstream) -> None:
    limits = [bucket(2, per="identity"), bucket(4)]
    with serving(up, config=simple_config(up.port, limits=limits)) as proxy:
        assert [ask(proxy, "127.0.0.1")[0] for _ in range(20)].count(200) == 2
        status, fields = ask(proxy, "127.0.0.2")
        assert (status, told(fields)[:2]) == (200, ("2", "1"))
        status, fields = ask(proxy, "127.0.0.3")
        assert (status, told(fields)[:2]) == (200, ("4", "0")), "the tighter of both is told"
        status, fields = ask(proxy, "127.0.0.2")
        assert (status, told(fields)[:2]) == (429, ("4", "0"))


def test_who_is_refused_because_of_all_keeps_its_own(up: Upstream) -> None:
    """The bucket of all fills quickly, that of a caller hardly ever."""
    limits = [bucket(3, per="identity"), bucket(1, 100)]
    with serving(up, config=simple_config(up.port, limits=limits)) as proxy:
        passed = 0
        refused = 0
        while passed < 3:
            status, fields = ask(proxy, "127.0.0.1")
            passed += status == 200
            refused += status == 429
            assert status == 200 or told(fields)[0] == "1"
        status, fields = wait_for(
            lambda: next((a for a in [ask(proxy, "127.0.0.1")] if told(a[1])[0] == "3"), None)
        )
        assert status == 429 and refused > 0


# ---- HTTP/2 and gRPC ---------------------------------------------------------------------------------


def test_a_gRPC_call_gets_unavailable(up: Upstream) -> None:
    config = simple_config(up.port, direct={"status": 200}, limits=[bucket(1)])
    del config["tables"][0]["virtual_hosts"][0]["routes"][0]["dests"]
    with serving(up, config=config, log=True) as proxy:
        client = dial(proxy.port)
        assert client.get()["x-ratelimit-remaining"] == "0"
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        answer = client.answer(client.request("POST", "/x.Y/Z", fields, body=b"\0\0\0\0\0"))
        assert answer.status == 200 and answer["grpc-status"] == "14"
        assert answer["grpc-message"] == "local_rate_limited"
        assert answer["x-envoy-ratelimited"] == "true" and answer["retry-after"] == "3600"
        assert answer["x-ratelimit-limit"] == "1"
        answer = client.get()
        assert answer.status == 429 and answer["retry-after"] == "3600"
        client.close()


# ---- config ------------------------------------------------------------------------------------------


def test_a_new_generation_keeps_the_buckets_that_it_does_not_change(up: Upstream) -> None:
    config = simple_config(up.port, limits=[bucket(2)])
    with serving(up, config=config) as proxy:
        assert [proxy.get()[0] for _ in range(3)] == [200, 200, 429]
        route = config["tables"][0]["virtual_hosts"][0]["routes"][0]
        route["name"] = "another"
        proxy.publish(config)
        assert proxy.get()[0] == 429
        route["limits"] = [bucket(3)]  # another limit begins with a full bucket
        proxy.publish(config)
        assert [proxy.get()[0] for _ in range(4)] == [200, 200, 200, 429]


def test_what_is_refused_is_neither_hidden_from_scripts_nor_mirrored_and_preflights_are_free(
    up: Upstream,
) -> None:
    shadow = Upstream()
    cors = {"origins": [{"op": "exact", "value": "http://a"}], "methods": ["GET"]}
    config = simple_config(up.port, limits=[bucket(1)], cors=cors, mirrors=[{"cluster": "shadow"}])
    shadowed = [{"address": "127.0.0.1", "port": shadow.port}]
    config["clusters"].append({"name": "shadow", "endpoints": shadowed})
    origin = "Origin: http://a\r\n"
    with serving(up, shadow, config=config) as proxy:
        for _ in range(3):
            peer = proxy.dial()
            ask_first = "Access-Control-Request-Method: GET\r\n"
            peer.send(f"OPTIONS / HTTP/1.1\r\nHost: x\r\n{origin}{ask_first}\r\n".encode())
            assert peer.answer()[0] == 200
            peer.close()
        for status in (200, 429, 429):
            got, fields, _ = proxy.get(more=origin)
            assert (got, fields["access-control-allow-origin"]) == (status, "http://a")
        wait_for(lambda: proxy.counter("mirror") == 1 and len(shadow.heads) == 1)
        proxy.wait_quiet()
        assert proxy.counter("mirror") == 1 and proxy.counter("rq_limited") == 2
