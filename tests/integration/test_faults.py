"""Injected faults through one worker: delays and aborts, with timeouts and retries still in force."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from helpers import wait_for
from helpers.h2raw import dial
from helpers.worker import Upstream, serving, simple_config

ALL = 1_000_000


def faulty(up: Upstream, **fault: Any) -> dict[str, Any]:
    route = {key: fault.pop(key) for key in ("retries", "timeout_ms") if key in fault}
    return simple_config(up.port, fault=fault, **route)


@pytest.mark.parametrize("status", [200, 404, 418, 503, 599])
def test_an_abort_answers_and_dials_nobody(status: int) -> None:
    up = Upstream()
    with serving(up, config=faulty(up, abort_ppm=ALL, abort_status=status), log=True) as proxy:
        got, fields, body = proxy.get()
        assert (got, body) == (status, b"fault filter abort\n") and fields["server"] == "fastmesh"
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["flags"], record["details"], record["attempts"]) == (262144, "fault_filter_abort", 1)
        assert proxy.counter("fault_aborts") == 1 and up.connections == 0


def test_a_gRPC_call_is_aborted_with_its_own_status() -> None:
    up = Upstream()
    with serving(up, config=faulty(up, abort_ppm=ALL, abort_status=404, abort_grpc=5)) as proxy:
        client = dial(proxy.port)
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        answer = client.answer(client.request("POST", "/x.Y/Z", fields, body=b"\0\0\0\0\0"))
        assert answer.status == 200 and ("grpc-status", "5") in answer.fields
        assert ("grpc-message", "fault filter abort") in answer.fields
        assert proxy.get()[0] == 404  # what is no call gets the same in HTTP's terms
        client.close()


def test_a_share_of_the_requests_is_aborted() -> None:
    up = Upstream()
    n, share = 1000, 0.3
    with serving(up, config=faulty(up, abort_ppm=int(share * ALL), abort_status=500)) as proxy:
        peer = proxy.dial()
        statuses = []
        for _ in range(n):
            peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses.append(peer.answer()[0])
        aborted = statuses.count(500)
        assert abs(aborted - n * share) <= 6 * math.sqrt(n * share * (1 - share))
        assert proxy.counter("fault_aborts") == aborted and statuses.count(200) == n - aborted


def test_an_abort_is_an_attempt_that_may_be_made_again() -> None:
    """A fault of 50 % and ten retries: one in two thousand fails. (Istio turns retries off with faults.)"""
    up = Upstream()
    retries = {"attempts": 10, "retry_on": ["5xx"], "backoff_ms": 1}
    config = faulty(up, abort_ppm=ALL // 2, abort_status=503, retries=retries)
    with serving(up, config=config) as proxy:
        statuses = [proxy.get()[0] for _ in range(40)]
        assert statuses.count(200) >= 39
        assert proxy.counter("rq_retry") == proxy.counter("fault_aborts") - statuses.count(503) > 0


def test_aborts_of_every_attempt_are_told_in_the_end() -> None:
    up = Upstream()
    retries = {"attempts": 2, "retry_on": ["gateway-error"], "backoff_ms": 1}
    with serving(up, config=faulty(up, abort_ppm=ALL, abort_status=503, retries=retries), log=True) as proxy:
        assert proxy.get()[0] == 503
        record = wait_for(lambda: proxy.segment.log_records(10))[0]
        assert (record["attempts"], record["flags"]) == (3, 262144 | 32)
        assert proxy.counter("fault_aborts") == 3


def test_a_delay_holds_the_request_and_not_the_others() -> None:
    up = Upstream()
    config = faulty(up, delay_ppm=ALL, delay_ms=200)
    plain = {
        "name": "fast",
        "path": {"op": "prefix", "value": "/fast"},
        "dests": [{"cluster": "c", "weight": 1}],
    }
    config["tables"][0]["virtual_hosts"][0]["routes"].insert(0, plain)
    with serving(up, config=config, log=True) as proxy:
        slow = proxy.dial()
        began = time.monotonic_ns()
        slow.send(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        proxy.wait_counter("fault_delays", 1)
        assert proxy.get("/fast")[0] == 200
        assert not any(b"/slow" in head for head in up.heads)
        assert slow.answer()[0] == 200
        assert time.monotonic_ns() - began >= 199_000_000  # it has been delayed: the least, not the most
        assert up.bodies[-1] == b"hello"
        proxy.wait_quiet()
        assert {r["path"]: r["flags"] for r in proxy.segment.log_records(10)} == {"/fast": 0, "/slow": 131072}


def test_a_delayed_request_runs_out_of_time() -> None:
    up = Upstream()
    with serving(up, config=faulty(up, delay_ppm=ALL, delay_ms=60_000, timeout_ms=100), log=True) as proxy:
        assert proxy.get()[0] == 504
        assert up.connections == 0
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] == 131072 | 128


def test_a_client_that_leaves_while_it_is_delayed() -> None:
    up = Upstream()
    with serving(up, config=faulty(up, delay_ppm=ALL, delay_ms=60_000)) as proxy:
        peer = proxy.dial()
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        proxy.wait_counter("fault_delays", 1)
        peer.close()
        proxy.wait_quiet()
        assert up.connections == 0


def test_both_at_once() -> None:
    up = Upstream()
    config = faulty(up, delay_ppm=ALL, delay_ms=20, abort_ppm=ALL, abort_status=500)
    with serving(up, config=config, log=True) as proxy:
        assert proxy.get()[0] == 500
        assert wait_for(lambda: proxy.segment.log_records(10))[0]["flags"] == 131072 | 262144
