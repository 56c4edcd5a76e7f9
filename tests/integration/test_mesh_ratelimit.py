"""LocalRateLimit in a mesh: at the sidecar of the server, for callers by their identities."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Mesh, Sidecar, running

HEAD = """
apiVersion: networking.fastmesh.io/v1
kind: LocalRateLimit
metadata: {name: reviews}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
"""
RULES = """
  - name: free
    match: [{uri: {exact: /healthz}}]
  - name: all
    match: [{uri: {prefix: /all}}]
    tokenBucket: {maxTokens: 4, fillInterval: 1h}
  - name: each
    perIdentity: {maxTokens: 2, fillInterval: 1h}
    overrides:
    - identities: [spiffe://cluster.local/ns/default/sa/batch]
      tokenBucket: {maxTokens: 5, fillInterval: 1h}
"""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running(tmp_path) as mesh:
        yield mesh


def ask(caller: Sidecar, n: int, path: str) -> Counter[int]:
    return Counter(caller.get("reviews", path).status for _ in range(n))


def test_limits_at_the_servers_sidecar(mesh: Mesh) -> None:
    reviews = mesh.sidecar("reviews", "--concurrency", "2", app=App("reviews"))
    callers = {name: mesh.sidecar(name, app=App(name)) for name in ("web", "shop", "batch")}
    for caller in callers.values():
        mesh.reaches(caller, "reviews", reviews)
    web, shop, batch = callers["web"], callers["shop"], callers["batch"]
    assert ask(web, 5, "/") == {200: 5}
    mesh.apply(HEAD + RULES)

    # each caller has its own, whichever worker it comes to; who is named has another
    assert ask(web, 6, "/a") == {200: 2, 429: 4}
    assert ask(shop, 6, "/b") == {200: 2, 429: 4}
    assert ask(batch, 8, "/c") == {200: 5, 429: 3}
    refused = web.get("reviews", "/")
    assert refused.status == 429 and refused.headers["x-ratelimit-limit"] == "2"
    assert refused.headers["x-envoy-ratelimited"] == "true" and int(refused.headers["retry-after"]) > 1000

    # all together, and those that are free
    assert ask(web, 3, "/all") == {200: 3}
    assert ask(shop, 3, "/all/x") == {200: 1, 429: 2}
    assert ask(web, 5, "/healthz") == {200: 5}

    # who says no is the server's side
    line = reviews.logged(lambda e: e["response_code"] == 429)
    assert (line["response_flags"], line["response_code_details"]) == ("RL", "local_rate_limited")
    assert reviews.stat("rq_limited") == 14
    line = web.logged(lambda e: e["response_code"] == 429)
    assert (line["response_flags"], line["response_code_details"]) == ("-", "via_upstream")
    assert web.stat("rq_limited") == 0 and ask(batch, 1, "/") == {429: 1}

    # a rule before the others, and a crash: the buckets stay
    mesh.apply(HEAD + "  - match: [{uri: {exact: /new}}]\n" + RULES.lstrip("\n"))
    before = reviews.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not before & reviews.worker_pids(), 20, "other workers")
    reviews.wait_ready()
    wait_for(lambda: web.get("reviews", "/new").status == 200, 20, "reviews through its new workers")
    assert ask(web, 3, "/") == ask(shop, 3, "/") == ask(batch, 3, "/all") == {429: 3}

    mesh.delete("localratelimit", "reviews")
    wait_for(lambda: web.get("reviews", "/").status == 200, 20, "reviews without a limit")
    assert ask(shop, 5, "/all") == {200: 5}


def test_it_can_be_read_back_and_what_is_wrong_is_refused(mesh: Mesh) -> None:
    mesh.cli("apply", "-f", mesh.file(HEAD + RULES))
    assert "reviews" in mesh.cli("get", "localratelimit").stdout
    assert mesh.cli("get", "lrl", "-o", "name").stdout.split() == ["localratelimit/reviews"]
    bad = mesh.file(HEAD + "  - tokenBucket: {maxTokens: 0, fillInterval: 1s}\n")
    done = mesh.cli("apply", "-f", bad, status=None)
    assert done.returncode != 0
    assert "spec.rules[0].tokenBucket.maxTokens: must be 1 to 1000000000, not 0" in done.stdout + done.stderr
