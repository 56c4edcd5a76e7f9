"""The control protocol end to end: join, certificate, topics, updates, acks, leases."""

from __future__ import annotations

import pytest

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


@pytest.fixture
def plane(spawn, tmp_path):
    return ControlPlane(spawn, tmp_path)


def test_a_sidecar_joins_gets_its_certificate_and_every_change(spawn, plane, tmp_path):
    agent = TestAgent(spawn, plane.bundle("reviews"), tmp_path / "a", port=16001)
    identity = agent.wait("identity")
    assert identity["chain"].startswith("-----BEGIN CERTIFICATE-----") and identity["persisted"]
    assert (tmp_path / "a/identity").stat().st_mode & 0o777 == 0o600
    agent.config(lambda e: e["endpoints"].get(REVIEWS) == [["127.0.0.1", 16001]])
    done = plane.apply(SPLIT.format(95, 5))
    assert [o["action"] for o in done["objects"]] == ["created", "created"]
    assert REVIEWS in done["topics"]
    waited = plane.ok("GET", f"/v1/wait?version={done['version']}&timeout=20")
    assert waited["done"] and waited["proxies"] == 1 and not waited["late"] and not waited["refused"]
    assert agent.config()["versions"][REVIEWS] == done["version"]
    assert plane.proxies()[agent.instance]["late"] == []
    assert agent.wait("started")["heavy"] == []
