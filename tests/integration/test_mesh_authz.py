"""AuthorizationPolicy in a mesh and at an edge: real proxies, callers with certificates, an application that
says which path it got."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from helpers import wait_for
from helpers.app import App
from helpers.mesh import Mesh, Sidecar, running

KIND = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
ALLOW = (
    KIND
    + """
metadata:
  name: readers
  annotations: {networking.fastmesh.io/name-denials: "true"}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]
    to: [{operation: {methods: [GET], paths: [/public/*, "/{*}/ok", /]}}]
  - from: [{source: {serviceAccounts: [shop]}}]
    when: [{key: "request.headers[x-team]", values: ["pay*"]}]
"""
)
DENY = (
    KIND
    + """
metadata: {name: no-admin, namespace: istio-system}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/public/admin, /public/admin/*]}}]}]
"""
)
TRIED = (
    KIND
    + """
metadata:
  name: tried
  annotations: {istio.io/dry-run: "true"}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/public/tried]}}]}]
"""
)
AUDIT = (
    KIND
    + """
metadata: {name: watch}
spec:
  action: AUDIT
  rules: [{to: [{operation: {paths: [/public/watched]}}]}]
"""
)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with running(tmp_path) as mesh:
        yield mesh


def explained(proxy: Sidecar, url: str, principal: str) -> dict[str, Any]:
    status, body = proxy.view(f"/explain?inbound=1&url={quote(url, safe='')}&principal={quote(principal)}")
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def raw(caller: Sidecar, target: bytes) -> int:
    """The status of a request with a target that no library would send."""
    with socket.create_connection(("127.0.0.1", caller.outbound), 20) as s:
        s.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        answer = b""
        while b"\r\n" not in answer:
            got = s.recv(65536)
            assert got, answer
            answer += got
    return int(answer.split(b" ", 2)[1])


def test_who_may_what(mesh: Mesh) -> None:
    app = App("reviews")
    reviews = mesh.sidecar("reviews", "--concurrency", "2", app=app)
    callers = {name: mesh.sidecar(name, app=App(name)) for name in ("web", "shop")}
    web, shop = callers["web"], callers["shop"]
    for caller in callers.values():
        mesh.reaches(caller, "reviews", reviews)
    mesh.apply("---\n".join((ALLOW, DENY, TRIED, AUDIT)))

    assert web.get("reviews", "/public/a").status == 200
    assert web.get("reviews", "/x/ok").status == 200
    refused = web.get("reviews", "/private")
    assert (refused.status, refused.body) == (403, b"RBAC: access denied")
    assert refused.headers["x-fastmesh-denied-by"] == "none"
    line = reviews.logged(lambda e: e["response_code"] == 403)
    assert line["response_code_details"] == "rbac_access_denied_matched_policy[none]"
    assert line["response_flags"] == "-"

    denied = web.get("reviews", "/public/admin")
    rule = "ns[istio-system]-policy[no-admin]-rule[0]"
    assert denied.status == 403 and denied.headers["x-fastmesh-denied-by"] == rule
    reviews.logged(lambda e: e["response_code_details"] == f"rbac_access_denied_matched_policy[{rule}]")

    assert shop.get("reviews", "/public/a").status == 403
    assert shop.get("reviews", "/private", x_team="payments").status == 200
    assert shop.get("reviews", "/private", x_team="other").status == 403

    assert web.get("reviews", "/public/tried").status == 200
    assert web.get("reviews", "/public/watched").status == 200
    reviews.logged(lambda e: e.get("authz") == "dry_run_denied")
    reviews.logged(lambda e: "audited" in e.get("authz", ""))
    assert reviews.stat("rbac_denied") == 4 and reviews.stat("rbac_shadow_denied") == 1
    assert reviews.stat("rbac_audited") == 1 and web.stat("rbac_denied") == 0

    # gRPC: the call's own status
    call = web.get("reviews", "/private", content_type="application/grpc", te="trailers")
    assert (call.status, call.headers["grpc-status"]) == (200, "7")

    # the same asked beforehand
    asked = explained(reviews, "http://reviews/public/a", "cluster.local/ns/default/sa/web")
    assert asked["authorization"]["rule"] == "ns[default]-policy[readers]-rule[0]"
    asked = explained(reviews, "http://reviews/public//admin", "spiffe://cluster.local/ns/default/sa/web")
    assert asked["outcome"] == "refused" and asked["authorization"]["rule"] == rule
    assert asked["answer"]["details"] == f"rbac_access_denied_matched_policy[{rule}]"
    assert explained(reviews, "http://reviews/public/a", "")["outcome"] == "refused"

    # no spelling of the path gets by: what comes through is what was judged
    for target in (
        b"//public/admin", b"/public//admin", b"/public/./admin", b"/x/../public/admin", b"/public/%61dmin",
        b"/public/x/%2e%2e/admin", b"/public/admin/", b"/public/admin//x", b"/%70ublic/admin?x=/ok",
    ):  # fmt: skip
        assert raw(web, target) == 403, target
    for target in (
        b"/public%2fadmin", b"/public/admin;x", b"/public/admin%3bx", b"/public\\admin", b"/public/admin%00",
        b"/public/%c1%81dmin", b"/public/%2561dmin", b"/public/..;/admin", b"/public/admin%5c",
    ):  # fmt: skip
        assert raw(web, target) == 400, target
    got = web.get("reviews", "/public//b/../%61?q=%2f//..")
    assert (got.status, got.json["path"]) == (200, "/public/a?q=%2f//..")
    assert reviews.stat("rbac_path_refused") == 9

    # without policies everything is as before
    mesh.apply(ALLOW.split("spec:")[0] + "spec: {rules: [{}]}\n")
    wait_for(lambda: web.get("reviews", "/private").status == 200, 10, "the new policy")
    assert raw(web, b"/public/admin") == 403


def test_a_policy_that_means_nothing_is_refused(mesh: Mesh) -> None:
    bad = KIND + "metadata: {name: bad}\nspec: {action: CUSTOM, provider: {name: x}, rules: [{}]}\n"
    with pytest.raises(Exception, match=r"spec\.action"):
        mesh.apply(bad)
