"""A config file becomes the IR of an edge proxy; what is wrong with it is told all at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from fastmesh.compile.edge import compile_edge_file
from fastmesh.model.problems import ConfigError

EDGE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, protocol: HTTP, name: http}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: ["*"]
  gateways: [gw]
  http:
  - match: [{uri: {prefix: /api}}]
    rewrite: {uri: /}
    timeout: 5s
    route:
    - {destination: {host: backend.local, subset: v1}, weight: 95}
    - {destination: {host: backend.local, subset: v2}, weight: 5}
  - route:
    - destination: {host: backend.local}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: backend}
spec:
  hosts: [backend.local]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.1, ports: {http: 9001}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {http: 9002}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: backend}
spec:
  host: backend.local
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""
RETRIES = {"attempts": 2, "retry_on": ["connect-failure", "refused-stream", "unavailable", "cancelled"]}


def write(folder: Path, text: str) -> str:
    path = folder / "edge.yaml"
    path.write_text(text)
    return str(path)


def cluster(subset: str, *versions: str) -> dict[str, object]:
    ports = {"v1": 9001, "v2": 9002}
    return {
        "name": f"outbound|80|{subset}|backend.local",
        "service": "backend.local",
        "namespace": "default",
        "lb": "ROUND_ROBIN",
        "endpoints": [{"address": "127.0.0.1", "port": ports[v], "version": v} for v in versions],
    }


def test_a_typical_edge(tmp_path: Path) -> None:
    assert compile_edge_file(write(tmp_path, EDGE), "edge-1") == {
        "node_id": "edge-1",
        "listeners": [
            {
                "name": "0.0.0.0_8080",
                "kind": "gateway",
                "address": "0.0.0.0",
                "port": 8080,
                "table": "0.0.0.0_8080",
                "tls_mode": "disable",
            }
        ],
        "tables": [
            {
                "name": "0.0.0.0_8080",
                "virtual_hosts": [
                    {
                        "name": "*:8080",
                        "domains": ["*"],
                        "routes": [
                            {
                                "path": {"op": "prefix", "value": "/api"},
                                "rewrite": {"path": "/"},
                                "timeout_ms": 5000,
                                "retries": RETRIES,
                                "dests": [
                                    {"cluster": "outbound|80|v1|backend.local", "weight": 95},
                                    {"cluster": "outbound|80|v2|backend.local", "weight": 5},
                                ],
                            },
                            {
                                "dests": [{"cluster": "outbound|80||backend.local", "weight": 1}],
                                "retries": RETRIES,
                            },
                        ],
                    }
                ],
            }
        ],
        "clusters": [cluster("v1", "v1"), cluster("v2", "v2"), cluster("", "v1", "v2")],
        "tls": [],
    }


def test_the_helper_process(tmp_path: Path) -> None:
    """What arbiter and agent run: msgpack on standard output, status 0 or 1."""
    path = write(tmp_path, EDGE)
    command = [sys.executable, "-m", "fastmesh.compile"]
    done = subprocess.run([*command, path, "--node-id", "edge-7"], stdout=subprocess.PIPE, check=True)
    config = msgpack.unpackb(done.stdout)["config"]
    assert config == compile_edge_file(path, "edge-7")

    write(
        tmp_path,
        EDGE.replace(
            "timeout: 5s", "fault: {delay: {fixedDelay: 1s, percentage: {value: 1}, exponentialDelay: x}}"
        ).replace("weight: 95", "weigth: 95"),
    )
    done = subprocess.run([*command, path], stdout=subprocess.PIPE)
    assert done.returncode == 1
    answer = msgpack.unpackb(done.stdout)
    errors = answer["problems"]
    assert [(e["line"], e["path"], e["message"], e.get("hint", "")) for e in errors] == [
        (20, "spec.http[0].fault.delay.exponentialDelay", "not implemented yet", ""),
        (
            22,
            "spec.http[0].route[0].weigth",
            "unknown field of HTTPRouteDestination",
            'did you mean "weight"?',
        ),
    ]
    where = f"{path}:20: VirtualService default/api: "
    assert answer["errors"][0] == where + "spec.http[0].fault.delay.exponentialDelay: not implemented yet"


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/edge\.yaml: cannot be read: No such file or directory"):
        compile_edge_file("/nowhere/edge.yaml")


def test_ten_thousand_routes_over_a_thousand_hosts(tmp_path: Path) -> None:
    """The size that the issue names goes through the whole pipeline (how long it takes is the bench's)."""
    gateway, _, backend, rule = EDGE.split("---\n")
    rules = "".join(
        f"  - match: [{{uri: {{prefix: /svc{r}/}}}}]\n    route: [{{destination: {{host: backend.local}}}}]\n"
        for r in range(10)
    )
    hosts = [
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs{h}}}\n"
        f"spec:\n  hosts: [h{h}.example]\n  gateways: [gw]\n  http:\n{rules}"
        for h in range(1000)
    ]
    config = compile_edge_file(write(tmp_path, "---\n".join([gateway, backend, rule, *hosts])))
    table = config["tables"][0]["virtual_hosts"]
    assert [len(table), sum(len(v["routes"]) for v in table), len(config["clusters"])] == [1000, 10_000, 1]
