"""Retries of answers that say that there was too much: x-envoy-ratelimited."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.h2origin import Origin, Request
from helpers.worker import Peer, Upstream, serving, simple_config

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Turns(Upstream):
    """Gives these answers in turn, and the last one from then on."""

    def __init__(self, *answers: bytes) -> None:
        super().__init__()
        self.answers = list(answers)

    def serve(self, peer: Peer) -> None:
        while self.request(peer):
            peer.send(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def answer(status: int, *fields: str) -> bytes:
    head = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status} X\r\n{head}Content-Length: 3\r\n\r\nbad".encode()


def on(*conditions: str, **more: Any) -> dict[str, Any]:
    retries = {"attempts": 1, "retry_on": list(conditions), "backoff_ms": 1, "statuses": [429], **more}
    return {"retries": retries}


@pytest.mark.parametrize(
    ("status", "field", "conditions", "repeated"),
    [
        (429, "x-envoy-ratelimited: true", ["envoy-ratelimited"], True),
        (429, "X-Envoy-RateLimited:", ["envoy-ratelimited"], True),
        (503, "x-envoy-ratelimited: false", ["envoy-ratelimited"], True),
        (200, "x-envoy-ratelimited: true", ["envoy-ratelimited"], True),
        (429, "x-envoy-ratelimited-not: true", ["envoy-ratelimited"], False),
        (429, "x: x-envoy-ratelimited", ["envoy-ratelimited"], False),
        (503, "x: y", ["envoy-ratelimited"], False),
        # It is a case of nothing else.
        (429, "x-envoy-ratelimited: true", ["retriable-status-codes"], False),
        (503, "x-envoy-ratelimited: true", ["5xx", "gateway-error"], False),
        (503, "x-envoy-ratelimited: true", ["5xx", "envoy-ratelimited"], True),
        (503, "x: y", ["5xx", "envoy-ratelimited"], True),
    ],
)
def test_the_condition_envoy_ratelimited(
    status: int, field: str, conditions: list[str], repeated: bool
) -> None:
    up = Turns(answer(status, field), OK)
    with serving(up, config=simple_config(up.port, **on(*conditions))) as proxy:
        assert proxy.get()[0] == (200 if repeated else status)
        assert len(up.heads) == (2 if repeated else 1) and proxy.counter("rq_retry") == int(repeated)


@pytest.mark.parametrize("condition", ["unavailable", "envoy-ratelimited"])
def test_a_call_that_is_rate_limited_is_not_just_unavailable(condition: str) -> None:
    """Which is what a proxy's rate limit answers a gRPC call with (trailers only)."""
    limited = [("content-type", "application/grpc"), ("grpc-status", "14"), ("x-envoy-ratelimited", "true")]

    def script(request: Request) -> None:
        request.wait_end()
        request.answer(200, limited, b"")

    origin = Origin(script)
    config = simple_config(origin.port, **on(condition))
    config["clusters"][0]["protocol"] = "h2"
    with serving(origin, config=config) as proxy:  # type: ignore[arg-type]
        peer = proxy.dial()
        peer.send(
            b"POST /a/b HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\n"
            b"TE: trailers\r\nContent-Length: 5\r\n\r\n" + bytes(5)
        )
        _, fields, _ = peer.answer()
        assert fields["grpc-status"] == "14"
        assert len(origin.requests) == (2 if condition == "envoy-ratelimited" else 1)


def test_a_rate_limit_of_ours_is_known_by_the_proxy_in_front() -> None:
    """Two proxies; the bucket of the one behind is empty after the first request."""
    up = Upstream()
    bucket = {"owner": "test", "most": 1, "fill": 1, "fill_ms": 3_600_000, "per": "route"}
    with serving(up, config=simple_config(up.port, limits=[bucket])) as behind:
        for conditions, tries in ((["5xx", "retriable-status-codes"], 1), (["envoy-ratelimited"], 2)):
            front = simple_config(behind.port, **on(*conditions))
            with serving(config=front) as proxy:
                if not up.heads:
                    assert proxy.get()[0] == 200
                before = behind.counter("rq_limited")
                assert proxy.get()[0] == 429
                assert behind.counter("rq_limited") == before + tries
