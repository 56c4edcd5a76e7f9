"""Levels of endpoints with real workers: a level fails over and comes back, shares hold, panic, retries that
leave. Where levels come from: an edge and a mesh with `--locality`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import free_port, istio, wait_for
from helpers.app import App
from helpers.mesh import EdgeProxy, Mesh, request, running
from helpers.worker import WorkerProxy, serving, simple_config
from integration.test_health import App as Checked
from integration.test_health import line
from integration.test_outlier import LONG, Moody

LBS = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "PEAK_EWMA"]
OK, BAD = "200 OK", "500 No"


def levelled(*levels: list[Any], route: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    """One listener, one cluster; the endpoints of each level, nearest first."""
    config = simple_config(
        *(up.port for level in levels for up in level), **{"retries": {"attempts": 0}, **(route or {})}
    )
    made = config["clusters"][0]
    made.update({"lb": "ROUND_ROBIN", **cluster})
    numbers = [i for i, level in enumerate(levels) for _ in level]
    for endpoint, number in zip(made["endpoints"], numbers, strict=True):
        endpoint["level"] = number
    return config


def gets(proxy: WorkerProxy, n: int) -> Counter[int]:
    return Counter(proxy.get()[0] for _ in range(n))


def spread(proxy: WorkerProxy, ups: list[Any], n: int) -> list[int]:
    """How many of n requests each gets; all are answered with 200."""
    before = [up.asked for up in ups]
    assert gets(proxy, n) == {200: n}
    return [up.asked - was for up, was in zip(ups, before, strict=True)]


def binomial(count: int, n: int, p: float) -> bool:
    """Within six standard deviations."""
    return abs(count - n * p) <= 6 * math.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize("lb", LBS)
def test_ejections_send_requests_further_and_their_end_brings_them_back(lb: str) -> None:
    near, far, farthest = [Moody(), Moody()], [Moody()], [Moody()]
    ups = [*near, *far, *farthest]
    outlier = {"max_percent": 100, "consecutive_5xx": 1, "base_ms": 300, "most_ms": 300}
    with serving(*ups, config=levelled(near, far, farthest, lb=lb, outlier=outlier)) as proxy:
        got = spread(proxy, ups, 40)
        assert sum(got[:2]) == 40 and all(got[:2])
        for up in near:
            up.line = BAD
        wait_for(lambda: gets(proxy, 4) == {200: 4}, 20, "requests at the next level")
        # probes are answered badly, all else by the next level
        before = far[0].asked
        gets(proxy, 40)
        assert far[0].asked > before and farthest[0].asked == 0
        for up in near:
            up.line = OK
        wait_for(lambda: spread(proxy, ups, 20)[2] == 0, 20, "requests at the nearest level again")
        assert sum(spread(proxy, ups, 20)[:2]) == 20


def test_seventy_percent_stay_while_half_are_ejected() -> None:
    near, far = [Moody(), Moody(), Moody(BAD), Moody(BAD)], [Moody()]
    outlier = {"max_percent": 100, "consecutive_5xx": 1, "base_ms": LONG, "most_ms": LONG}
    with serving(*near, *far, config=levelled(near, far, outlier=outlier)) as proxy:
        assert gets(proxy, 4) == {200: 2, 500: 2}
        got = spread(proxy, [*near, *far], 600)
        assert binomial(got[4], 600, 0.3) and got[2:4] == [0, 0]


def test_health_checks_send_requests_further_and_back() -> None:
    near, far = [Checked(), Checked()], [Checked()]
    ups = [*near, *far]
    health = {
        "kind": "http",
        "path": "/healthz",
        "interval_ms": 30,
        "timeout_ms": 10_000,
        "unhealthy": 1,
        "healthy": 1,
    }
    with serving(*ups, config=levelled(near, far, health=health)) as proxy:
        wait_for(lambda: all(up.checks for up in ups))
        assert spread(proxy, ups, 20)[2] == 0
        for up in near:
            up.answer = line("503 No")
        wait_for(lambda: spread(proxy, ups, 10)[2] == 10, 20, "requests at the next level")
        far[0].answer = line("503 No")
        wait_for(lambda: gets(proxy, 3) == {503: 3}, 20, "no endpoint is healthy")
        near[1].answer = Checked.OK
        wait_for(lambda: proxy.get()[0] == 200 and spread(proxy, ups, 10) == [0, 10, 0], 20, "one is back")


@pytest.mark.parametrize("lb", LBS)
def test_shares(lb: str) -> None:
    levels = [[Moody(), Moody()], [Moody()], [Moody(), Moody(), Moody()]]
    ups = [up for level in levels for up in level]
    with serving(*ups, config=levelled(*levels, lb=lb, shares=[60, 30, 10])) as proxy:
        got = spread(proxy, ups, 1000)
        for count, share in zip([sum(got[:2]), got[2], sum(got[3:])], [0.6, 0.3, 0.1], strict=True):
            assert binomial(count, 1000, share)


def test_panic_when_no_level_can_take_what_is_left() -> None:
    near, far = [Moody(BAD), Moody(BAD)], [Moody(BAD), Moody(BAD)]
    outlier = {
        "max_percent": 100, "consecutive_5xx": 1, "base_ms": LONG, "most_ms": LONG, "min_health_percent": 50,
    }  # fmt: skip
    ups = [*near, *far]
    with serving(*ups, config=levelled(near, far, outlier=outlier)) as proxy:
        for _ in range(200):
            assert proxy.get()[0] == 500  # never 503: with too few left all are used
        assert all(up.asked > 3 for up in ups)


def test_retries_leave_only_where_they_may() -> None:
    near, far = [Moody("503 No"), Moody("503 No")], [Moody(), Moody()]
    ups = [*near, *far]
    for anywhere in (False, True):
        retries: dict[str, Any] = {"attempts": 3, "retry_on": ["5xx"], "backoff_ms": 1}
        if anywhere:
            retries["anywhere"] = True
        before = [up.asked for up in ups]
        config = levelled(near, far, route={"retries": retries})
        with serving(config=config) as proxy:
            assert proxy.get()[0] == (200 if anywhere else 503)
        got = [up.asked - was for up, was in zip(ups, before, strict=True)]
        # two attempts in the nearest level, then one in the next
        assert got[:2] == [1, 1] if anywhere else got[:2] == [2, 2]
        assert sum(got[2:]) == (1 if anywhere else 0)
    for up in ups:
        up.close()


# -- an edge, and a mesh -----------------------------------------------------------------------------------


@contextmanager
def edge(
    directory: Path, apps: dict[str, App], policy: str, *options: str
) -> Iterator[tuple[int, EdgeProxy]]:
    port = free_port()
    ends = ", ".join(
        f"{{address: 127.0.0.1, ports: {{http: {app.port}}}, locality: {place}}}"
        for place, app in apps.items()
    )
    text = istio.text(
        istio.gateway(istio.http(port)),
        istio.routes("- route: [{destination: {host: app.local}}]"),
        istio.entry("app", "STATIC", ends),
        istio.policy("app", policy),
    )
    proxy = EdgeProxy(directory, text, *options)
    proxy.start()
    try:
        yield port, proxy
    finally:
        proxy.kill()


def who(port: int, n: int) -> Counter[str]:
    answers = [request(port, "x", "/") for _ in range(n)]
    assert {answer.status for answer in answers} == {200}
    return Counter(str(answer.json["app"]) for answer in answers)


@pytest.fixture
def apps() -> Iterator[dict[str, App]]:
    made = {place: App(place) for place in ("eu/1", "eu/2", "us/1")}
    yield made
    for app in made.values():
        app.close()


def test_an_edge_with_a_locality(tmp_path: Path, apps: dict[str, App]) -> None:
    policy = "outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, baseEjectionTime: 1h}"
    with edge(tmp_path, apps, policy, "--locality", "eu/1/rack") as (port, proxy):
        (cluster,) = json.loads(proxy.view("/clusters?format=json")[1])["clusters"]
        places = [(e["locality"], e["priority"]) for e in cluster["endpoints"]]
        assert places == [("eu/1", 0), ("eu/2", 1), ("us/1", 2)]
        lead = f"outbound|80||app.local::127.0.0.1:{apps['us/1'].port}::"
        said = {"region::us", "zone::1", "sub_zone::", "priority::2"}
        assert {lead + each for each in said} <= set(proxy.view("/clusters")[1].splitlines())
        assert who(port, 20) == {"eu/1": 20}
        assert request(port, "x", "/status/500").status == 500
        assert who(port, 20) == {"eu/2": 20}
        assert request(port, "x", "/status/500").status == 500
        assert who(port, 20) == {"us/1": 20}


def test_an_edge_without_a_locality(tmp_path: Path, apps: dict[str, App]) -> None:
    with edge(tmp_path, apps, "outlierDetection: {}") as (port, _):
        assert set(who(port, 60)) == set(apps)


def test_an_edge_that_distributes(tmp_path: Path, apps: dict[str, App]) -> None:
    policy = """
    loadBalancer:
      localityLbSetting:
        distribute:
        - from: eu/*
          to: {eu/1: 50, us/*: 50}
    """
    with edge(tmp_path, apps, policy, "--locality", "eu/9") as (port, _):
        got = who(port, 300)
    assert set(got) == {"eu/1", "us/1"} and binomial(got["eu/1"], 300, 0.5)


RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, baseEjectionTime: 1h}
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running(tmp_path) as mesh:
        yield mesh


def test_sidecars_prefer_those_of_their_own_place(mesh: Mesh) -> None:
    eu = mesh.sidecar("reviews", "--locality", "eu/1", app=App("eu"))
    us = mesh.sidecar("reviews", "--locality", "us/1", app=App("us"))
    callers = {
        place: mesh.sidecar("web", "--locality", place, app=App(f"web-{place[:2]}"))
        for place in ("eu/2", "us/1")
    }
    for caller in callers.values():
        mesh.reaches(caller, "reviews", eu, us)

    def seen(place: str, n: int = 20) -> Counter[str]:
        answers = [callers[place].get("reviews", "/") for _ in range(n)]
        assert {answer.status for answer in answers} == {200}
        return Counter(str(answer.json["app"]) for answer in answers)

    assert set(seen("eu/2", 60)) == {"eu", "us"}  # without a rule nothing is nearer
    mesh.apply(RULE)
    assert seen("eu/2") == {"eu": 20}
    assert seen("us/1") == {"us": 20}
    # one failure, one ejection: the caller goes to the other place; who is there has seen nothing of it
    assert callers["eu/2"].get("reviews", "/status/500").status == 500
    assert seen("eu/2") == {"us": 20}
    assert seen("us/1") == {"us": 20}
