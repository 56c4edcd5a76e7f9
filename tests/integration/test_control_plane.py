"""The control protocol end to end: join, certificate, topics, updates, acks, leases, policy."""

from __future__ import annotations

import signal

import pytest

from helpers import wait_for
from integration.controlplane import ControlPlane, TestAgent

REVIEWS = "svc/reviews.default.svc.cluster.local"
SPLIT = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {{host: reviews, subset: v1}}
      weight: {}
    - destination: {{host: reviews, subset: v2}}
      weight: {}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec:
  host: reviews
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
"""
PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: NAMESPACE}
spec: {mtls: {mode: PERMISSIVE}}
"""


@pytest.fixture
def plane(spawn, tmp_path):
    return ControlPlane(spawn, tmp_path)


def split(first: int) -> str:
    return SPLIT.format(first, 100 - first)


def test_a_sidecar_joins_gets_its_certificate_and_every_change(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    identity = agent.wait("identity")
    assert identity["chain"].startswith("-----BEGIN CERTIFICATE-----") and identity["persisted"]
    assert (tmp_path / "a/identity").stat().st_mode & 0o777 == 0o600
    agent.config(lambda e: e["endpoints"].get(REVIEWS) == [["127.0.0.1", 16001]])
    done = plane.apply(split(95))
    assert [o["action"] for o in done["objects"]] == ["created", "created"]
    assert REVIEWS in done["topics"]
    waited = plane.ok("GET", f"/v1/wait?version={done['version']}&timeout=20")
    assert waited["done"] and waited["proxies"] == 1 and not waited["late"] and not waited["refused"]
    assert agent.config()["versions"][REVIEWS] == done["version"]
    assert plane.proxies()[agent.instance]["late"] == []
    assert agent.wait("started")["heavy"] == [], "libraries that cost every sidecar memory"


def test_what_changes_nothing_publishes_nothing(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    done = plane.apply(split(95))
    agent.config(lambda e: e["versions"].get(REVIEWS, 0) >= done["version"])
    again = plane.apply(split(95))
    assert {o["action"] for o in again["objects"]} == {"unchanged"}
    assert again["topics"] == {} and again["version"] == plane.apply(split(95))["version"]


def test_state_is_kept_private(plane):
    for name in ("ca.key", "curve.key", "api.token", "mesh.db"):
        assert (plane.state / name).stat().st_mode & 0o777 == 0o600, name
    assert plane.state.stat().st_mode & 0o777 == 0o700


def test_a_sidecar_that_is_killed_leaves_the_lists_when_its_lease_ends(spawn, tmp_path):
    plane = ControlPlane(spawn, tmp_path, "--lease", "1.5")
    bundle = plane.bundle("reviews")
    first = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    second = TestAgent(spawn, bundle, tmp_path / "b", port=16002)
    wait_for(lambda: plane.endpoints("reviews") == {16001, 16002}, what="both endpoints")
    first.process.signal(signal.SIGKILL)
    wait_for(lambda: plane.endpoints("reviews") == {16002}, what="the dead one's end")
    second.config(lambda e: e["endpoints"][REVIEWS] == [["127.0.0.1", 16002]])
    assert plane.metric("fastmesh_control_leases_expired") == 1
    # It comes back from its state directory, under the same name.
    again = TestAgent(spawn, bundle, tmp_path / "a", port=16001)
    wait_for(lambda: plane.endpoints("reviews") == {16001, 16002}, what="its return")
    assert again.instance == first.instance
    assert not again.events("identity"), "the certificate that it kept is still good"


def test_a_goodbye_takes_effect_without_waiting_for_the_lease(spawn, tmp_path):
    plane = ControlPlane(spawn, tmp_path, "--lease", "600")
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    wait_for(lambda: plane.endpoints("reviews") == {16001}, what="the endpoint")
    assert agent.process.stop() == 0
    assert plane.endpoints("reviews") == set()
    assert plane.metric("fastmesh_control_leases_expired") == 0
    # The service stays known: clients get "no healthy upstream", not "no route".
    assert [s["name"] for s in plane.ok("GET", "/v1/services")["items"]] == ["reviews"]


def test_a_sidecar_is_listed_once_its_workers_serve(spawn, plane, tmp_path):
    bundle = plane.bundle("reviews")
    slow = TestAgent(spawn, bundle, tmp_path / "slow", "--no-ack", port=16001)
    slow.config()
    quick = TestAgent(spawn, bundle, tmp_path / "quick", port=16002)
    wait_for(lambda: plane.endpoints("reviews") == {16002}, what="the quick one")
    assert plane.proxies()[slow.instance]["ready"] is False
    status, answer = plane.call("GET", "/v1/wait?timeout=0.3")
    assert status == 200 and not answer["done"]
    assert [name.split(".")[0] for name in answer["late"]] == [f"reviews-{slow.instance}"]
    assert plane.proxies()[quick.instance]["late"] == []


def test_a_refusal_ends_the_wait_with_its_reason(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", "--refuse", "ratings")
    agent.config()
    done = plane.apply(split(50).replace("reviews", "ratings"))
    answer = plane.ok("GET", f"/v1/wait?version={done['version']}&timeout=20")
    assert not answer["done"]
    (reasons,) = answer["refused"].values()
    assert set(reasons.values()) == {"refused for the test"}
    assert plane.proxies()[agent.instance]["refused"]


def test_policy_reaches_the_namespace_that_it_is_for(spawn, plane, tmp_path):
    here = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    there = TestAgent(spawn, plane.bundle("reviews", namespace="other"), tmp_path / "b")
    assert here.config()["mtls"] == "strict"
    plane.apply(PERMISSIVE.replace("NAMESPACE", "default"))
    here.config(lambda e: e["mtls"] == "permissive")
    assert there.config()["mtls"] == "strict"
    plane.apply(PERMISSIVE.replace("NAMESPACE", "istio-system"))
    there.config(lambda e: e["mtls"] == "permissive")
    # A namespace that nobody has named yet finds the mesh's policy in its first config.
    late = TestAgent(spawn, plane.bundle("reviews", namespace="third"), tmp_path / "c")
    late.config()
    assert late.events("config")[0]["mtls"] == "permissive"


def test_certificates_are_renewed_at_half_of_their_life(spawn, tmp_path):
    plane = ControlPlane(spawn, tmp_path, "--cert-ttl", "6")
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a")
    first = agent.wait("identity")
    second = agent.wait("identity", lambda e: e["generation"] == 2)
    assert second["chain"] != first["chain"] and second["not_after"] > first["not_after"]
    assert second["persisted"]
    assert agent.process.alive and plane.metric("fastmesh_control_refused_total") == 0
    assert not agent.events("warning"), "no connection was lost over it"
    assert plane.proxies()[agent.instance]["cert_expires"] >= second["not_after"]


@pytest.mark.parametrize("seed", [1, 2])
def test_lost_repeated_and_reordered_updates_are_repaired(spawn, plane, tmp_path, seed):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", "--lossy", str(seed))
    agent.config()
    for first in range(1, 31):
        done = plane.apply(split(first))
    answer = plane.ok("GET", f"/v1/wait?version={done['version']}&timeout=20")
    assert answer["done"], answer
    told = agent.config(lambda e: e["versions"][REVIEWS] == done["version"])
    assert told["counters"]["gaps"] > 0
    plane.ok("DELETE", "/v1/resources/virtualservice/default/reviews")
    newest = plane.ok("DELETE", "/v1/resources/destinationrule/default/reviews")["version"]
    assert plane.ok("GET", f"/v1/wait?version={newest}&timeout=20")["done"]
