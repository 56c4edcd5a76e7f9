"""AuthorizationPolicy for TCP sessions in a mesh: who gets through, what denials and dry runs say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import free_port, wait_for
from helpers.mesh import Mesh, Sidecar, running
from helpers.tcp import echo
from helpers.worker import Upstream

KIND = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
MATCHED = "rbac_access_denied_matched_policy"


class Way:
    """Two callers and a TCP service that one of them may use."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.ports = {name: free_port() for name in ("web", "shop")}
        self.server = mesh.sidecar("db", "--app-protocol", "tcp", app=Upstream(echo))
        self.callers: dict[str, Sidecar] = {
            name: mesh.sidecar(name, "--outbound-tcp", f"{port}=db") for name, port in self.ports.items()
        }
        for caller in self.callers.values():
            mesh.reaches(caller, "db", self.server)

    def apply(self, spec: str, annotations: str = "") -> None:
        meta = f"metadata: {{name: db-callers, annotations: {{{annotations}}}}}\n"
        self.mesh.apply(f"{KIND}{meta}spec: {{selector: {{matchLabels: {{app: db}}}}, {spec}}}\n")

    def passes(self, who: str) -> bool:
        with socket.create_connection(("127.0.0.1", self.ports[who]), 20) as s:
            s.settimeout(20)
            try:
                s.sendall(b"hello")
                s.shutdown(socket.SHUT_WR)
                return s.recv(100) == b"hello"
            except ConnectionError:
                return False

    def last(self, **wanted: Any) -> dict[str, Any]:
        return self.server.logged(lambda e: all(e.get(k) == v for k, v in wanted.items()))


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with running(tmp_path_factory.mktemp("mesh")) as mesh:
        yield Way(mesh)


def test_an_allow_policy_lets_the_named_caller_in_and_nobody_else(way: Way) -> None:
    way.apply("rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]}]")
    wait_for(lambda: not way.passes("shop"), 20, "the policy")
    assert way.passes("web")
    line = way.last(response_code_details=f"{MATCHED}[none]")
    assert line["peer_uri_san"] == "spiffe://cluster.local/ns/default/sa/shop"
    assert line["response_flags"] == "-" and line["bytes_sent"] == 0
    assert "route_name" not in line or line["route_name"] in (None, "-", "")
    assert way.server.stat("rbac_denied") >= 1


def test_a_denial_names_its_rule(way: Way) -> None:
    way.apply(
        "action: DENY, rules: [{from: [{source: {namespaces: [other]}}]}, "
        "{from: [{source: {serviceAccounts: [default/shop]}}]}]"
    )
    wait_for(lambda: way.passes("web") and not way.passes("shop"), 20, "the policy")
    way.last(response_code_details=f"{MATCHED}[ns[default]-policy[db-callers]-rule[1]]")


def test_a_rule_about_http_allows_no_session_and_denies_more(way: Way) -> None:
    # Istio: an ALLOW rule with HTTP fields never holds for TCP; a DENY rule is taken without them
    way.apply("rules: [{to: [{operation: {methods: [GET]}}]}]")
    wait_for(lambda: not way.passes("web"), 20, "the policy")
    way.apply(
        "action: DENY, rules: [{from: [{source: {principals: ['*/sa/shop']}}], "
        "to: [{operation: {paths: [/admin]}}]}]"
    )
    wait_for(lambda: way.passes("web"), 20, "the policy")
    assert not way.passes("shop")


def test_a_dry_run_is_told_and_lets_pass(way: Way) -> None:
    before = way.server.stat("rbac_shadow_denied")
    way.apply(
        "action: DENY, rules: [{from: [{source: {principals: ['*/sa/shop']}}]}]", 'istio.io/dry-run: "true"'
    )
    wait_for(lambda: way.passes("shop") and way.server.stat("rbac_shadow_denied") > before, 20, "the dry run")
    way.last(authz="dry_run_denied")
    way.apply("action: AUDIT, rules: [{from: [{source: {principals: ['*/sa/web']}}]}]")
    wait_for(lambda: way.passes("web") and way.server.stat("rbac_audited") > 0, 20, "the audit policy")
    assert "audited" in way.last(authz="audited")["authz"]
