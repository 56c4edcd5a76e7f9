"""AuthorizationPolicy at an edge: from its file, by path and address, before it redirects or routes."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import wait_for
from helpers.procs import Process
from integration.edges import Backend, Edge

POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin", "/admin/*"]}}]
  - from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]
"""


def status(port: int, target: str, **headers: str) -> int:
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        c.request("GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return c.getresponse().status
    finally:
        c.close()


def test_an_edge_with_a_policy(spawn: Callable[..., Process], tmp_path: Path) -> None:
    backend = Backend()
    try:
        edge = Edge(spawn, tmp_path, backend.port)
        edge.start()
        port = edge.port
        assert status(port, "/admin") == 200
        edge.file.write_text(edge.file.read_text() + POLICY)
        edge.process.signal(signal.SIGHUP)
        wait_for(lambda: status(port, "/admin") == 403, 20, "the policy")
        for target in ("//admin", "/x/../admin", "/%61dmin/", f"http://127.0.0.1:{port}//admin/x"):
            assert status(port, target) == 403, target
        assert status(port, "/admin%2fx") == 400 and status(port, "/free") == 200
        # who the client is an edge sees itself
        assert status(port, "/free", x_forwarded_for="203.0.113.7") == 200
    finally:
        backend.close()


def test_a_policy_for_workloads_is_refused(tmp_path: Path) -> None:
    from fastmesh.compile.edge import compile_edge_file
    from fastmesh.model.problems import ConfigError

    file = tmp_path / "edge.yaml"
    file.write_text(POLICY.replace("spec:", "spec:\n  selector: {matchLabels: {app: a}}", 1))
    with pytest.raises(ConfigError, match="the policy would be without effect"):
        compile_edge_file(str(file))
