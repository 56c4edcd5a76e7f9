"""`fastmesh explain` of a running sidecar: what it says of the mesh's routes is what the application gets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Mesh, Sidecar, running

CONFIG = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 1, interval: 1h, baseEjectionTime: 1h, maxEjectionPercent: 100}
    connectionPool: {http: {http2MaxRequests: 77}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rules}
spec:
  hosts: [reviews]
  http:
  - name: closed
    match: [{uri: {prefix: /closed}}, {headers: {x-user: {regex: "b.*"}}, method: {exact: POST}}]
    directResponse: {status: 403, body: {string: "closed"}}
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/}
    headers: {request: {set: {x-why: moved}}}
    route: [{destination: {host: reviews, subset: v2}}]
    timeout: 20s
  - match: [{headers: {x-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
    retries: {attempts: 3, perTryTimeout: 9s, retryOn: "connect-failure,reset"}
  - match: [{queryParams: {v: {exact: "3"}}}]
    route: [{destination: {host: reviews, subset: v3}}]
  - match: [{withoutHeaders: {x-lost: {}}}]
    route:
    - {destination: {host: reviews, subset: v1}, weight: 75}
    - {destination: {host: reviews, subset: v2}, weight: 25}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("explain")) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def reviews(mesh: Mesh) -> dict[str, Sidecar]:
    return {v: mesh.sidecar("reviews", "--concurrency", "1", version=v, app=App(v)) for v in ("v1", "v2")}


@pytest.fixture(scope="module")
def web(mesh: Mesh, reviews: dict[str, Sidecar]) -> Sidecar:
    mesh.apply(CONFIG)
    web = mesh.sidecar("web", "--concurrency", "1", app=App("web"))
    mesh.reaches(web, "reviews", *reviews.values())
    return web


def explained(mesh: Mesh, sidecar: Sidecar, *args: str) -> tuple[int, dict[str, Any]]:
    done = mesh.run("explain", "--admin", f"127.0.0.1:{sidecar.admin}", *args, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def asked(sidecar: Sidecar, method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Of the admin view itself: a process for each question would take a second."""
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    status, body = sidecar.view(f"/explain?method={method}&url={quote(url)}&header={quote(lines)}")
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_rule_the_subset_and_the_plan_are_named(mesh: Mesh, web: Sidecar) -> None:
    status, found = explained(mesh, web, "GET", "http://reviews/x", "-H", "x-user: jason")
    assert status == 0
    assert found["listener"]["kind"] == "outbound"
    assert found["route"]["source"] == "VirtualService default/rules: spec.http[2].match[0]"
    assert [r["source"].rpartition(" ")[2] for r in found["passed"]] == [
        "spec.http[0].match[0]",
        "spec.http[0].match[1]",
        "spec.http[1].match[0]",
    ]
    assert [(r["failed"], r["have"]) for r in found["passed"]] == [
        ("path", "/x"),
        (0, "GET"),
        ("path", "/x"),
    ]
    plan = found["action"]["retries"]
    assert (plan["attempts"], plan["per_try_timeout_ms"]) == (3, 9000)
    (dest,) = found["action"]["destinations"]
    assert "|v2|reviews." in dest["cluster"]["name"]
    assert dest["cluster"]["limits"]["max_requests"] == 77
    assert dest["cluster"]["tls"]["sans"]
    assert [e["health"] for e in dest["cluster"]["endpoints"]] == ["healthy"]
    done = mesh.run("explain", "--admin", f"127.0.0.1:{web.admin}", "GET", "http://reviews/old/1?a=b")
    assert done.returncode == 0
    assert "sends        /new/1?a=b with Host reviews" in done.stdout
    assert "(VirtualService default/rules: spec.http[1].match[0])" in done.stdout


def test_every_answer_is_as_explained(web: Sidecar) -> None:
    rng = random.Random(4)
    outcomes = set()
    for _ in range(200):
        path = rng.choice(["/", "/closed", "/old/x", "/old", "/x?v=3", "/y?v=2"])
        method = rng.choice(["GET", "POST"])
        headers = {"x-user": rng.choice(["jason", "bob", "ann"])}
        if rng.random() < 0.3:
            headers["x-lost"] = "1"
        host = rng.choice(["reviews", "reviews.default", "reviews.default.svc.cluster.local", "nobody"])
        found = asked(web, method, f"http://{host}{path}", headers)
        answer = web.get(host, path, method=method, **headers)
        outcomes.add(found["outcome"])
        if found["outcome"] != "forward":
            said = found["answer"]
            assert (answer.status, answer.body.decode()) == (said["status"], said["body"]), found
            continue
        dests = found["action"]["destinations"]
        if answer.status == 503:
            assert any("answer" in d and d["answer"]["body"].encode() == answer.body for d in dests), found
            outcomes.add("UH")
            continue
        seen = answer.json
        taken = [d for d in dests if f"|{seen['app']}|" in d["cluster"]["name"]]
        assert len(taken) == 1 and taken[0]["sent"]["target"] == seen["path"], (found, seen)
        assert seen["headers"].get("x-why") == ("moved" if path == "/old/x" else None)
    assert outcomes == {"forward", "direct", "refused", "UH"}


def test_the_other_side_and_listeners_that_are_not_there(
    mesh: Mesh, web: Sidecar, reviews: dict[str, Sidecar]
) -> None:
    status, found = explained(mesh, reviews["v1"], "--inbound", "GET", "http://reviews/")
    assert status == 0 and found["listener"]["kind"] == "inbound"
    endpoint = found["action"]["destinations"][0]["cluster"]["endpoints"][0]
    assert endpoint["address"] == f"127.0.0.1:{reviews['v1'].app.port}"
    done = mesh.run(
        "explain", "--admin", f"127.0.0.1:{web.admin}", "--listener", "x", "GET", "http://reviews/"
    )
    assert done.returncode == 2
    assert "no listener fits" in done.stderr and "outbound (outbound, port" in done.stderr


def test_an_endpoint_that_is_ejected(mesh: Mesh, web: Sidecar, reviews: dict[str, Sidecar]) -> None:
    assert web.get("reviews", "/status/500", x_user="jason").status == 500
    wait_for(lambda: web.stat("od_ejections") > 0, what="an ejection")
    status, found = explained(mesh, web, "GET", "http://reviews/", "-H", "x-user: jason")
    assert status == 1
    (dest,) = found["action"]["destinations"]
    assert dest["answer"]["flags"] == ["UH"] and dest["answer"]["status"] == 503
    (endpoint,) = dest["cluster"]["endpoints"]
    assert (endpoint["health"], endpoint["used"]) == ("ejected", False)
    answer = web.get("reviews", "/", x_user="jason")
    assert (answer.status, answer.body.decode()) == (503, dest["answer"]["body"])
    # the other subset serves
    status, found = explained(mesh, web, "GET", "http://reviews/")
    assert status == 0
    assert ["sent" in d for d in found["action"]["destinations"]] == [True, False]
    done = mesh.run("explain", "--admin", f"127.0.0.1:{web.admin}", "GET", "http://reviews/")
    assert "ejected for " in done.stdout and "not used" in done.stdout
    assert "503 UH: no healthy upstream (no_healthy_upstream)" in done.stdout


def test_a_config_of_before_is_no_longer_told(mesh: Mesh, web: Sidecar) -> None:
    mesh.delete("VirtualService", "rules")
    wait_for(lambda: "source" not in asked(web, "GET", "http://reviews/", {})["route"], what="the new config")
    found = asked(web, "GET", "http://reviews/", {})
    assert found["route"]["name"] == "default" and found["passed"] == []
