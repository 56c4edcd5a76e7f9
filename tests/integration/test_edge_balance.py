"""Load balancing of an edge, from the text of its config to who answers: in all its workers, over reloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import free_port, istio
from helpers.app import App
from helpers.mesh import EdgeProxy, request

APPLIED = "config applied by all workers"
KEYS = [f"user-{i}" for i in range(40)]


@pytest.fixture
def apps() -> Iterator[list[App]]:
    made = [App(f"app{i}") for i in range(4)]
    yield made
    for app in made:
        app.close()


class Balanced:
    """An edge in front of some applications, under a trafficPolicy."""

    def __init__(self, directory: Path, apps: list[App], policy: str) -> None:
        self.port = free_port()
        self.edge = EdgeProxy(directory, self.text(apps, policy))
        self.edge.start()

    def text(self, apps: list[App], policy: str) -> str:
        return istio.text(
            istio.gateway(istio.http(self.port)),
            istio.routes("- route: [{destination: {host: app.local}}]"),
            istio.service("app", *[app.port for app in apps]),
            istio.policy("app", policy),
        )

    def who(self, **headers: str) -> str:
        answer = request(self.port, "x", "/", **headers)
        assert answer.status == 200
        return str(answer.json["app"])


@pytest.mark.parametrize("table", ["ringHash: {}", "maglev: {tableSize: 4093}"])
def test_users_stay_with_their_endpoints_in_all_workers_and_over_reloads(
    tmp_path: Path, apps: list[App], table: str
) -> None:
    policy = f"loadBalancer: {{consistentHash: {{httpHeaderName: X-User, {table}}}}}"
    b = Balanced(tmp_path, apps, policy)
    try:
        first = {key: b.who(x_user=key) for key in KEYS}
        assert len(set(first.values())) > 1
        for _ in range(2):
            assert {key: b.who(x_user=key) for key in KEYS} == first
        gone, left = apps[0], apps[1:]
        b.edge.reload(b.text(list(reversed(left)), policy), said=APPLIED)
        after = {key: b.who(x_user=key) for key in KEYS}
        moved = [key for key in KEYS if after[key] != first[key] and first[key] != gone.name]
        assert gone.name not in after.values()
        assert len(moved) <= (0 if "ring" in table else 8)
        b.edge.reload(b.text(apps, policy), said=APPLIED)
        assert {key: b.who(x_user=key) for key in KEYS} == first
    finally:
        b.edge.kill()
        print(b.edge.process.report())


def test_a_session_begins_with_the_first_answer(tmp_path: Path, apps: list[App]) -> None:
    b = Balanced(
        tmp_path, apps, "loadBalancer: {consistentHash: {httpCookie: {name: sid, path: /, ttl: 1h}}}"
    )
    try:
        for _ in range(8):
            first = request(b.port, "x", "/")
            cookie, *attributes = first.headers["set-cookie"].split("; ")
            assert attributes == ["Max-Age=3600", "Path=/", "HttpOnly"]
            for _ in range(4):
                assert b.who(cookie=cookie) == first.json["app"]
    finally:
        b.edge.kill()
        print(b.edge.process.report())


def test_a_new_endpoint_warms_up(tmp_path: Path, apps: list[App]) -> None:
    policy = "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 1h}}"
    b = Balanced(tmp_path, apps[:3], policy)
    try:
        for _ in range(30):
            b.who()
        # those that were there at the start are as they were: each its third, in both workers
        assert all(app.requests >= 8 for app in apps[:3])
        b.edge.reload(b.text(apps, policy), said=APPLIED)
        for _ in range(160):
            b.who()
        # 3 in a hundred instead of 25
        assert apps[3].requests < 20
    finally:
        b.edge.kill()
        print(b.edge.process.report())


def test_ten_thousand_endpoints_of_one_service(tmp_path: Path, apps: list[App]) -> None:
    """Whoever is there gets its share of them; the others are addresses at which nobody listens."""
    there = ", ".join(f"{{address: 127.0.0.1, ports: {{http: {app.port}}}, weight: 60000}}" for app in apps)
    dead = ", ".join(
        f"{{address: 127.1.{i >> 8}.{i & 255}, ports: {{http: 1}}, weight: 1}}"
        for i in range(10_000 - len(apps))
    )
    port = free_port()
    retries = "retries: {attempts: 3, retryOn: connect-failure}"
    edge = EdgeProxy(
        tmp_path,
        istio.text(
            istio.gateway(istio.http(port)),
            istio.routes(f"- route: [{{destination: {{host: app.local}}}}]\n  {retries}"),
            istio.entry("app", "STATIC", f"{there}, {dead}"),
            istio.policy("app", "loadBalancer: {simple: LEAST_REQUEST}"),
        ),
    )
    edge.start()
    try:
        answers = [request(port, "x", "/") for _ in range(200)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.json["app"] for answer in answers} == {"app0", "app1", "app2", "app3"}
    finally:
        edge.kill()
        print(edge.process.report())
