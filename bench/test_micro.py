"""The codec's own time for one head, without sockets: nanoseconds in a C loop, called through the test shim.

Needs the shims (`make test` builds them); skipped without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.test_latency import Benchmark

h1: Any = pytest.importorskip(
    "shim.h1_shim", reason="the shims are not built: make test", exc_type=ImportError
)

CALLS = 20_000  # a benchmark round: long beside the call from Python, short beside a tick of the scheduler
ROUNDS = 50

SHORT = b"GET / HTTP/1.1\r\nHost: backend.bench.local\r\n\r\n"
BROWSER = (
    b"GET /api/v1/reviews?page=2&sort=newest HTTP/1.1\r\n"
    b"Host: reviews.default.svc.cluster.local\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Connection: keep-alive\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark\r\n"
    b"X-Request-Id: 6f9619ff-8b86-4d01-b42d-00cf4fc964ff\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
)


def _calls(head: bytes, what: str) -> Callable[[], None]:
    return lambda: h1.bench(head, CALLS, what)


@pytest.mark.benchmark(group=f"{CALLS} request heads")
@pytest.mark.parametrize("name", ["short", "browser"])
@pytest.mark.parametrize("what", ["parse", "hop"])
def test_request_head(name: str, what: str, benchmark: Benchmark) -> None:
    head = {"short": SHORT, "browser": BROWSER}[name]
    benchmark.pedantic(_calls(head, what), rounds=ROUNDS, warmup_rounds=2)
