"""The demo's clients, and the arithmetic of what they measure: splits and latencies.

Knows URLs and ports that it is given, nothing of processes.
"""

from __future__ import annotations

import collections
import http.client
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

# A correct split falls outside the bounds in one run of a million: who sees it fail, sees a fault.
DOUBT = 1e-6


class KeepAlive:
    """One client connection that is used again and again."""

    def __init__(self, port: int, host: str = "", timeout: float = 10.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._host = {"Host": host} if host else {}

    def get(self, path: str = "/", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body. After an error the next request opens a new connection."""
        try:
            self._connection.request("GET", path, headers={**self._host, **(headers or {})})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def json(self, path: str = "/", headers: dict[str, str] | None = None) -> Any:
        """The decoded body; OSError when the status is not 200."""
        status, body = self.get(path, headers)
        if status != 200:
            raise OSError(f"{path} answered {status}: {body[:200].decode(errors='replace')}")
        return json.loads(body)

    def close(self) -> None:
        self._connection.close()


@dataclass
class Tally:
    """What became of some requests: answers by version of reviews, and the errors."""

    versions: collections.Counter[str] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def total(self) -> int:
        return self.versions.total() + self.errors.total()

    def error_text(self) -> str:
        return "; ".join(f"{count} x {what}" for what, count in self.errors.most_common(3))


def ask(client: KeepAlive, tally: Tally) -> None:
    """One request to web, counted by the version of reviews that answered."""
    try:
        status, body = client.get()
    except (OSError, http.client.HTTPException) as error:
        tally.errors[f"{type(error).__name__} {error}".strip()] += 1
        return
    if status != 200:
        text = body[:120].decode(errors="replace").strip()
        tally.errors[f"{status} {text}"] += 1
        return
    tally.versions[json.loads(body)["reviews"]["version"]] += 1


def count_versions(port: int, requests: int, progress: Callable[[int], object]) -> Tally:
    """Send requests to web one after the other over one connection."""
    tally = Tally()
    client = KeepAlive(port)
    for number in range(requests):
        if number % 100 == 0:
            progress(number)
        ask(client, tally)
    client.close()
    return tally


class Background:
    """Requests to web without a pause, on a few connections, until stopped."""

    def __init__(self, port: int, clients: int = 2) -> None:
        self._stop = threading.Event()
        self._tallies = [Tally() for _ in range(clients)]
        self._threads = [
            threading.Thread(target=self._work, args=(port, tally), daemon=True) for tally in self._tallies
        ]

    def __enter__(self) -> Background:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        """Requests so far."""
        return sum(tally.total for tally in self._tallies)

    def result(self) -> Tally:
        """All that was seen; to be called after the end."""
        result = Tally()
        for tally in self._tallies:
            result.versions += tally.versions
            result.errors += tally.errors
        return result

    def _work(self, port: int, tally: Tally) -> None:
        client = KeepAlive(port)
        while not self._stop.is_set():
            ask(client, tally)
            time.sleep(0.001)
        client.close()


def binomial_bounds(n: int, p: float, doubt: float = DOUBT) -> tuple[int, int]:
    """The counts between which a binomial(n, p) falls but for a chance of `doubt`."""
    if p in (0.0, 1.0):
        return int(n * p), int(n * p)

    def probability(k: int) -> float:
        chosen = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        return math.exp(chosen + k * math.log(p) + (n - k) * math.log1p(-p))

    def tail(counts: Iterable[int]) -> int:
        """The first count at which the probability of the counts so far exceeds half the doubt."""
        passed, last = 0.0, 0
        for last in counts:
            passed += probability(last)
            if passed > doubt / 2:
                break
        return last

    return tail(range(n + 1)), tail(range(n, -1, -1))


def new_trace() -> tuple[str, str]:
    """(trace id, traceparent) of a request that begins a trace."""
    trace = secrets.token_hex(16)
    return trace, f"00-{trace}-{secrets.token_hex(8)}-01"


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies(
    ways: dict[str, KeepAlive], requests: int, block: int, progress: Callable[[int], object]
) -> dict[str, list[float]]:
    """Microseconds of requests one after the other, the ways in turns: what disturbs one disturbs all."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for client in ways.values():
        for _ in range(block):
            client.json()
    done = 0
    while done < requests:
        size = min(block, requests - done)
        for name, client in ways.items():
            for _ in range(size):
                began = time.perf_counter()
                status, _ = client.get()
                found[name].append((time.perf_counter() - began) * 1e6)
                if status != 200:
                    raise OSError(f"{name}: status {status}")
        done += size
        progress(done)
    return found
