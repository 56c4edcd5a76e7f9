"""DestinationRule healthChecks: what is refused, what is warned of, and what a cluster is made of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh._core.shm.segment import Segment, SnapshotError
from fastmesh.compile.cells import CellMap
from fastmesh.compile.clusters import base_cluster
from fastmesh.compile.health import watch
from fastmesh.compile.snapshot import pack
from fastmesh.model.index import Index
from fastmesh.model.load import load_dicts
from fastmesh.model.validate import validate
from helpers.irconf import cluster, config

AT = "spec.trafficPolicy.healthChecks"
TIMES = "interval: 5s, timeout: 1s"


def rule(policy: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "x"},
        "spec": {"host": "a.example", **yaml.safe_load(policy)},
    }


def checks(text: str) -> dict[str, Any]:
    return rule(f"trafficPolicy: {{healthChecks: {text}}}")


def problems(text: str, severity: str) -> list[str]:
    found = load_dicts([checks(text)]).problems
    return [f"{p.path}: {p.message}" for p in found if p.severity == severity]


def http(text: str) -> str:
    return f"{{{TIMES}, httpHealthCheck: {text}}}"


ONE = "exactly one of httpHealthCheck, grpcHealthCheck, tcpHealthCheck is needed"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{timeout: 1s, tcpHealthCheck: {}}", ".interval: is required"),
        ("{interval: 1s, tcpHealthCheck: {}}", ".timeout: is required"),
        ("{interval: 0s, timeout: 1s, tcpHealthCheck: {}}", ".interval: must be at least 1ms"),
        ("{interval: 1s, timeout: 0s, tcpHealthCheck: {}}", ".timeout: must be at least 1ms"),
        (f"{{{TIMES}}}", f": {ONE}, not none"),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, grpcHealthCheck: {{}}}}",
            f": {ONE}, not grpcHealthCheck and tcpHealthCheck",
        ),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, unhealthyThreshold: 0}}",
            ".unhealthyThreshold: must be 1 to 1000000, not 0",
        ),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, healthyThreshold: 0}}",
            ".healthyThreshold: must be 1 to 1000000, not 0",
        ),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, intervalJitterPercent: 101}}",
            ".intervalJitterPercent: must be 0 to 100, not 101",
        ),
        (f"{{{TIMES}, tcpHealthCheck: {{}}, altPort: 0}}", ".altPort: must be 1 to 65535, not 0"),
        (f"{{{TIMES}, tcpHealthCheck: {{}}, altPort: 65536}}", ".altPort: must be 1 to 65535, not 65536"),
        (f"{{{TIMES}, tcpHealthCheck: {{send: {{text: aa}}}}}}", ".tcpHealthCheck.send: not implemented yet"),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, unhealthyInterval: 1s}}",
            ".unhealthyInterval: not implemented yet",
        ),
        (f"{{{TIMES}, tcpHealthCheck: {{}}, path: /}}", ".path: unknown field of HealthCheck"),
        (http("{}"), ".httpHealthCheck.path: is required"),
        (http("{path: healthz}"), ".httpHealthCheck.path: must begin with /"),
        (http('{path: "/a b"}'), ".httpHealthCheck.path: must be printable ASCII without spaces"),
        (http('{path: "/a\\r\\nx: y"}'), ".httpHealthCheck.path: must be printable ASCII without spaces"),
        (http('{path: "/a#b"}'), ".httpHealthCheck.path: must have no fragment (#)"),
        (http('{path: /, host: ""}'), ".httpHealthCheck.host: must not be empty"),
        (http('{path: /, host: "a b"}'), '.httpHealthCheck.host: "a b" is not a host name or IP address'),
        (http('{path: /, host: "a:0"}'), ".httpHealthCheck.host: 0 is not a port"),
        (http("{path: /, expectedStatuses: []}"), ".httpHealthCheck.expectedStatuses: must not be empty"),
        (
            http("{path: /, expectedStatuses: [{start: 99, end: 200}]}"),
            ".httpHealthCheck.expectedStatuses[0].start: must be 100 to 599, not 99",
        ),
        (
            http("{path: /, expectedStatuses: [{start: 200, end: 601}]}"),
            ".httpHealthCheck.expectedStatuses[0].end: must be 101 to 600, not 601",
        ),
        (
            http("{path: /, expectedStatuses: [{start: 200, end: 200}]}"),
            ".httpHealthCheck.expectedStatuses[0].end: holds no status: start is in it, end is not",
        ),
        (
            http("{path: /, expectedStatuses: [{start: 200}]}"),
            ".httpHealthCheck.expectedStatuses[0].end: is required",
        ),
        (
            f"{{{TIMES}, grpcHealthCheck: {{serviceName: {'x' * 257}}}}}",
            ".grpcHealthCheck.serviceName: is longer than 256 bytes",
        ),
        (
            f"{{{TIMES}, grpcHealthCheck: {{authority: a/b}}}}",
            '.grpcHealthCheck.authority: "a/b" is not a host name or IP address',
        ),
    ],
)
def test_refused(text: str, problem: str) -> None:
    assert problems(text, "error") == [AT + problem]


def test_a_check_that_may_take_longer_than_its_interval_is_warned_of() -> None:
    text = "{interval: 1s, timeout: 2s, tcpHealthCheck: {}}"
    assert problems(text, "error") == []
    (found,) = problems(text, "warning")
    assert found.startswith(f"{AT}.timeout: is longer than interval")
    assert problems("{interval: 1s, timeout: 1s, tcpHealthCheck: {}}", "warning") == []


BASE = {"interval_ms": 5000, "timeout_ms": 1000}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (f"{{{TIMES}, tcpHealthCheck: {{}}}}", {"kind": "tcp", **BASE}),
        (f"{{{TIMES}, grpcHealthCheck: {{}}}}", {"kind": "grpc", **BASE}),
        (
            f'{{{TIMES}, grpcHealthCheck: {{serviceName: a.B, authority: "x.example:80"}}}}',
            {"kind": "grpc", "service": "a.B", "host": "x.example:80", **BASE},
        ),
        (http('{path: "/healthz?x=1"}'), {"kind": "http", "path": "/healthz?x=1", **BASE}),
        (
            http(
                '{path: /, host: "[::1]:80", '
                "expectedStatuses: [{start: 200, end: 300}, {start: 404, end: 405}]}"
            ),
            {"kind": "http", "path": "/", "host": "[::1]:80", "expected": [[200, 299], [404, 404]], **BASE},
        ),
        (
            f"{{{TIMES}, tcpHealthCheck: {{}}, unhealthyThreshold: 5, healthyThreshold: 1, "
            "intervalJitterPercent: 0, altPort: 8080}",
            {"kind": "tcp", "unhealthy": 5, "healthy": 1, "jitter_percent": 0, "port": 8080, **BASE},
        ),
    ],
)
def test_what_a_cluster_is_made_of_it(text: str, made: dict[str, Any]) -> None:
    loaded = load_dicts([checks(text)])
    assert not loaded.problems
    (found,) = loaded.resources
    out: Any = {}
    watch(out, found.spec["trafficPolicy"]["healthChecks"])
    assert out == {"health": made}
    pack(config(clusters=[cluster("c", 1, **out)]), CellMap(Segment.create(1)))


def test_without_one_a_cluster_has_none() -> None:
    out: Any = {}
    watch(out, None)
    assert out == {}


def test_a_subset_and_a_port_have_their_own() -> None:
    tcp = "healthChecks: {interval: %ds, timeout: 1s, tcpHealthCheck: {}}"
    loaded = load_dicts(
        [
            rule(f"""
trafficPolicy:
  {tcp % 1}
  portLevelSettings:
  - port: {{number: 81}}
    {tcp % 2}
subsets:
- name: v1
  trafficPolicy:
    {tcp % 3}
- name: v2
  trafficPolicy:
    outlierDetection: {{}}
""")
        ]
    )
    assert not loaded.problems
    index = Index(loaded.resources)

    def interval(port: int, subset: str = "") -> int:
        made, _ = base_cluster(index, "a.example", port, subset, "")
        return made["health"]["interval_ms"]

    assert [interval(80), interval(81), interval(80, "v1"), interval(80, "v2")] == [1000, 2000, 3000, 1000]


GRPC = f"healthChecks: {{{TIMES}, grpcHealthCheck: {{}}}}"
SIMPLE = "tls: {mode: SIMPLE}"
UPGRADE = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}"
CLIENT = "connectionPool: {http: {useClientProtocol: true}}"


@pytest.mark.parametrize(
    ("protocol", "policy", "at"),
    [
        ("HTTP", f"{{{GRPC}}}", None),
        ("HTTP", f"{{{GRPC}, tls: {{mode: DISABLE}}}}", None),
        ("HTTP", f"{{{GRPC}, {SIMPLE}}}", ""),
        ("HTTPS", f"{{{GRPC}, {SIMPLE}}}", ""),
        ("GRPC", f"{{{GRPC}, {SIMPLE}}}", None),
        ("HTTP2", f"{{{GRPC}, {SIMPLE}}}", None),
        ("HTTP", f"{{{GRPC}, {SIMPLE}, {UPGRADE}}}", None),
        ("HTTP", f"{{{GRPC}, {SIMPLE}, {CLIENT}}}", None),
        ("HTTP", f"{{{SIMPLE}, portLevelSettings: [{{port: {{number: 80}}, {GRPC}}}]}}", None),
        (
            "HTTP",
            f"{{{GRPC}, portLevelSettings: [{{port: {{number: 80}}, {GRPC}, {SIMPLE}}}]}}",
            "portLevelSettings[0].",
        ),
        ("HTTP", f"{{{GRPC}, {SIMPLE}, portLevelSettings: [{{port: {{number: 80}}, {SIMPLE}}}]}}", None),
    ],
)
def test_a_grpc_check_needs_http_2(protocol: str, policy: str, at: str | None) -> None:
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "a"},
        "spec": {
            "hosts": ["a.example"],
            "ports": [{"number": 80, "name": "p", "protocol": protocol}],
            "resolution": "STATIC",
            "endpoints": [{"address": "127.0.0.1"}],
        },
    }
    loaded = load_dicts([entry, rule(f"trafficPolicy: {policy}")])
    assert not loaded.problems
    found = [f"{p.path}: {p.message}" for p in validate(loaded.resources) if p.severity == "error"]
    path = f"spec.trafficPolicy.{at}healthChecks.grpcHealthCheck"
    assert found == (
        [] if at is None else [f"{path}: needs HTTP/2, which TLS to port 80 of a.example does not offer"]
    )


@pytest.mark.parametrize(
    ("health", "path"),
    [
        ({"kind": "udp"}, "kind"),
        ({"interval_ms": 0}, "interval_ms"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"unhealthy": 0}, "unhealthy"),
        ({"healthy": 0}, "healthy"),
        ({"jitter_percent": 101}, "jitter_percent"),
        ({"port": 65536}, "port"),
        ({"path": "x"}, "path"),
        ({"path": ""}, "path"),
        ({"path": "/ x"}, "path"),
        ({"host": "a b"}, "host"),
        ({"host": "x" * 260}, "host"),
        ({"service": "x" * 257}, "service"),
        ({"expected": [[99, 200]]}, r"expected\[0\]"),
        ({"expected": [[200, 299], [300, 299]]}, r"expected\[1\]"),
        ({"expected": [[200, 200]] * 17}, "expected"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_its_path(health: dict[str, Any], path: str) -> None:
    whole = {"kind": "http", "path": "/", **BASE, **health}
    with pytest.raises(SnapshotError, match=rf"clusters\[0\]\.health\.{path}"):
        pack(config(clusters=[cluster("c", 1, health=whole)]), CellMap(Segment.create(1)))
