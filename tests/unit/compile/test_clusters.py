"""Each field of DestinationRule, ServiceEntry and WorkloadEntry, and what it makes of an edge's cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from shim.shm_shim import Frozen

from fastmesh.compile.cells import CellMap
from fastmesh.compile.edge import compile_edge
from fastmesh.compile.snapshot import pack
from fastmesh.model.load import load_dicts

HOST = "b.example"


def obj(kind: str, spec: dict[str, Any], name: str = "x", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def gateway() -> dict[str, Any]:
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    return obj("Gateway", {"servers": [{"port": port, "hosts": ["*"]}]}, "gw")


def route(**destination: Any) -> dict[str, Any]:
    to = {"host": HOST, **destination}
    return obj(
        "VirtualService", {"hosts": ["*"], "gateways": ["gw"], "http": [{"route": [{"destination": to}]}]}
    )


def entry(**spec: Any) -> dict[str, Any]:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    ends = [{"address": "10.0.0.1"}]
    return obj(
        "ServiceEntry", {"hosts": [HOST], "ports": ports, "resolution": "STATIC", "endpoints": ends, **spec}
    )


def config(*docs: dict[str, Any]) -> Any:
    return compile_edge(load_dicts([gateway(), *docs]).ok(), Path("/nowhere"))


def only_cluster(*docs: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = config(*docs)["clusters"][0]
    return made


def rule(policy: str, **more: Any) -> dict[str, Any]:
    return obj("DestinationRule", {"host": HOST, "trafficPolicy": yaml.safe_load(policy), **more})


BASE = {
    "name": f"outbound|80||{HOST}",
    "service": HOST,
    "namespace": "default",
    "endpoints": [{"address": "10.0.0.1", "port": 80}],
}
TLS_END = [{"address": "10.0.0.1", "port": 80, "tls": True}]
SAN = {"sans": [HOST], "verify_san": True}

# trafficPolicy -> what the cluster has besides BASE
POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("{loadBalancer: {simple: UNSPECIFIED}}", {}),
    ("{loadBalancer: {simple: LEAST_REQUEST}}", {}),
    ("{loadBalancer: {simple: LEAST_CONN}}", {}),
    ("{loadBalancer: {simple: ROUND_ROBIN}}", {"lb": "ROUND_ROBIN"}),
    ("{loadBalancer: {simple: RANDOM}}", {"lb": "RANDOM"}),
    ("{connectionPool: {tcp: {connectTimeout: 30ms}}}", {"connect_timeout_ms": 30}),
    ("{connectionPool: {tcp: {maxConnections: 100}}}", {"max_connections": 100}),
    ("{connectionPool: {http: {idleTimeout: 1m}}}", {"idle_timeout_ms": 60_000}),
    ("{connectionPool: {http: {maxRequestsPerConnection: 1}}}", {"max_requests_per_connection": 1}),
    ("{connectionPool: {http: {maxRequestsPerConnection: 0}}}", {}),
    ("{connectionPool: {http: {h2UpgradePolicy: DEFAULT}}}", {}),
    ("{connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}", {}),
    ("{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}", {"protocol": "h2"}),
    ("{connectionPool: {http: {useClientProtocol: true}}}", {"protocol": "as_client"}),
    ("{connectionPool: {http: {useClientProtocol: false}}}", {}),
    (
        "{connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}}",
        {"protocol": "as_client"},
    ),
    ("{connectionPool: {http: {maxConcurrentStreams: 7}}}", {"max_streams": 7}),
    ("{connectionPool: {http: {maxConcurrentStreams: 0}}}", {}),
    (
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}, portLevelSettings: "
        "[{port: {number: 80}, connectionPool: {http: {maxConcurrentStreams: 3}}}]}",
        {"max_streams": 3},
    ),
    (
        "{portLevelSettings: [{port: {number: 80}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}]}",
        {"protocol": "h2"},
    ),
    (
        "{portLevelSettings: [{port: {number: 81}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}]}",
        {},
    ),
    ("{tls: {mode: DISABLE}}", {}),
    ("{tls: {}}", {}),
    (
        "{tls: {mode: SIMPLE}}",
        {"endpoints": TLS_END, "tls": {"context": f"client/{HOST}", "sni": HOST, **SAN}},
    ),
    (
        "{tls: {mode: SIMPLE, sni: c.example, subjectAltNames: [a, b, a]}}",
        {
            "endpoints": TLS_END,
            "tls": {
                "context": f"client/{HOST}",
                "sni": "c.example",
                "sans": ["a", "b"],
                "verify_san": True,
            },
        },
    ),
    (
        "{tls: {mode: SIMPLE, insecureSkipVerify: true}}",
        {"endpoints": TLS_END, "tls": {"context": f"client/{HOST}", "sni": HOST}},
    ),
    (
        "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 1s}}, portLevelSettings: "
        "[{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}",
        # settings of a port inherit nothing from above
        {"lb": "ROUND_ROBIN"},
    ),
    (
        "{loadBalancer: {simple: RANDOM}, portLevelSettings: "
        "[{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]}",
        {"lb": "RANDOM"},
    ),
]


@pytest.mark.parametrize(("policy", "expected"), POLICIES, ids=[p for p, _ in POLICIES])
def test_a_traffic_policy(policy: str, expected: dict[str, Any]) -> None:
    assert only_cluster(route(), entry(), rule(policy)) == {**BASE, **expected}


# (port's name, its protocol, connectionPool.http) -> the cluster's protocol; an edge does not ask what its
# client speaks unless a rule says so
PORTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("web", "", {}, "http1"),
    ("http", "", {}, "http1"),
    ("http-web", "", {}, "http1"),
    ("http2", "", {}, "h2"),
    ("HTTP2-web", "", {}, "h2"),
    ("grpc-api", "", {}, "h2"),
    ("grpcs", "", {}, "http1"),
    ("web-grpc", "", {}, "http1"),
    ("grpc-api", "HTTP", {}, "http1"),
    ("web", "http2", {}, "h2"),
    ("web", "GRPC", {}, "h2"),
    ("web", "kubernetes.io/h2c", {}, "h2"),
    ("web", "Http", {"h2UpgradePolicy": "UPGRADE"}, "h2"),
    ("web", "GRPC", {"h2UpgradePolicy": "DO_NOT_UPGRADE"}, "h2"),
    ("web", "GRPC", {"useClientProtocol": True}, "as_client"),
]


@pytest.mark.parametrize(("name", "protocol", "http", "expected"), PORTS)
def test_what_a_port_speaks(name: str, protocol: str, http: dict[str, Any], expected: str) -> None:
    port = {"number": 80, "name": name, **({"protocol": protocol} if protocol else {})}
    docs = [rule("{}") | {"spec": {"host": HOST, "trafficPolicy": {"connectionPool": {"http": http}}}}]
    made = only_cluster(route(), entry(ports=[port]), *(docs if http else []))
    assert made.get("protocol", "http1") == expected


# (port's name, connectionPool.http) -> what TLS to it offers
OFFERS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("web", {}, ["http/1.1"]),
    ("http", {}, ["http/1.1"]),
    ("https", {}, ["http/1.1"]),
    ("http", {"h2UpgradePolicy": "DO_NOT_UPGRADE"}, ["http/1.1"]),
    ("http", {"h2UpgradePolicy": "UPGRADE"}, ["h2", "http/1.1"]),
    ("https", {"h2UpgradePolicy": "UPGRADE"}, ["h2", "http/1.1"]),
    ("http2", {}, ["h2"]),
    ("grpc", {}, ["h2"]),
    ("grpc", {"h2UpgradePolicy": "UPGRADE"}, ["h2"]),
    ("grpc", {"h2UpgradePolicy": "DO_NOT_UPGRADE"}, ["h2"]),
    ("http", {"useClientProtocol": True}, ["h2", "http/1.1"]),
    ("grpc", {"useClientProtocol": True}, ["h2", "http/1.1"]),
]


@pytest.mark.parametrize(("name", "http", "expected"), OFFERS)
def test_what_originated_tls_offers(name: str, http: dict[str, Any], expected: list[str]) -> None:
    policy = {"tls": {"mode": "SIMPLE"}, "connectionPool": {"http": http}}
    made = config(
        route(),
        entry(ports=[{"number": 80, "name": name}]),
        obj("DestinationRule", {"host": HOST, "trafficPolicy": policy}),
    )
    assert [context["alpn"] for context in made["tls"]] == [expected]


def test_clusters_share_a_context_when_they_offer_the_same() -> None:
    """Three ports of one host and one set of files: a context for each list, not for each port."""
    numbers = {80: "http", 81: "http-b", 82: "grpc"}
    made = config(
        obj(
            "VirtualService",
            {
                "hosts": ["*"],
                "gateways": ["gw"],
                "http": [
                    {
                        "match": [{"uri": {"prefix": f"/{n}"}}],
                        "route": [{"destination": {"host": HOST, "port": {"number": n}}}],
                    }
                    for n in numbers
                ],
            },
        ),
        entry(ports=[{"number": n, "name": name} for n, name in numbers.items()]),
        rule("{tls: {mode: SIMPLE}}"),
    )
    contexts = {c["name"].split("|")[1]: c["tls"]["context"] for c in made["clusters"]}
    assert contexts["80"] == contexts["81"] != contexts["82"]
    assert {t["name"]: t["alpn"] for t in made["tls"]} == {
        contexts["80"]: ["http/1.1"],
        contexts["82"]: ["h2"],
    }


def test_an_upgrade_ends_kept_tls_connections() -> None:
    """What a kept connection speaks was agreed on when it was made."""

    def kept(http: str) -> int:
        policy = f"{{tls: {{mode: SIMPLE}}, connectionPool: {{http: {http}}}}}"
        made = config(route(), entry(), rule(policy))
        found = Frozen(pack(made, CellMap())).upstream(f"outbound|80||{HOST}")["tls_policy"]
        assert isinstance(found, int)
        return found

    assert kept("{}") == kept("{h2UpgradePolicy: DO_NOT_UPGRADE}") == kept("{maxConcurrentStreams: 9}")
    assert kept("{}") != kept("{h2UpgradePolicy: UPGRADE}") == kept("{useClientProtocol: true}")


def test_a_subsets_policy_replaces_blocks_of_the_top_level() -> None:
    top = "{loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 1s}}}"
    subsets = [
        {"name": "v1", "trafficPolicy": {"connectionPool": {"http": {"idleTimeout": "5s"}}}},
        {
            "name": "v2",
            "trafficPolicy": {
                "portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "ROUND_ROBIN"}}]
            },
        },
    ]
    made = [only_cluster(route(subset=s), entry(), rule(top, subsets=subsets)) for s in ("v1", "v2")]
    assert [(c.get("lb"), c.get("connect_timeout_ms"), c.get("idle_timeout_ms")) for c in made] == [
        ("RANDOM", None, 5000),
        ("ROUND_ROBIN", None, None),
    ]


def test_the_most_specific_rule_of_a_host_counts() -> None:
    docs = [
        obj("DestinationRule", {"host": host, "trafficPolicy": {"loadBalancer": {"simple": lb}}}, name)
        for host, lb, name in (("*", "RANDOM", "a"), ("*.example", "ROUND_ROBIN", "b"))
    ]
    assert only_cluster(route(), entry(), *docs)["lb"] == "ROUND_ROBIN"
    assert only_cluster(route(), entry(), docs[0])["lb"] == "RANDOM"
    assert (
        only_cluster(route(), entry(), *docs, rule("{loadBalancer: {simple: LEAST_REQUEST}}")).get("lb")
        is None
    )


def test_rules_of_one_host_are_merged() -> None:
    docs = [
        obj("DestinationRule", {"host": HOST, "subsets": [{"name": "v1"}]}, "a"),
        obj("DestinationRule", {"host": HOST, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}, "b"),
    ]
    assert only_cluster(route(subset="v1"), entry(), *docs)["lb"] == "RANDOM"


# ServiceEntry fields -> endpoints and the rest of the cluster
ENTRIES: list[tuple[str, dict[str, Any]]] = [
    ("{endpoints: [{address: '::1'}]}", {"endpoints": [{"address": "::1", "port": 80}]}),
    (
        "{ports: [{number: 80, name: http, targetPort: 8080}]}",
        {"endpoints": [{"address": "10.0.0.1", "port": 8080}]},
    ),
    (
        "{ports: [{number: 80, name: http, targetPort: 8080}], endpoints: [{address: 10.0.0.1, ports: "
        "{http: 9}}]}",
        {"endpoints": [{"address": "10.0.0.1", "port": 9}]},
    ),
    (
        "{endpoints: [{address: 10.0.0.1, weight: 3}, {address: 10.0.0.2, weight: 1}]}",
        {
            "endpoints": [
                {"address": "10.0.0.1", "port": 80, "weight": 3},
                {"address": "10.0.0.2", "port": 80},
            ]
        },
    ),
    (
        "{endpoints: [{address: 10.0.0.1, labels: {version: v1}, serviceAccount: sa}]}",
        {"endpoints": [{"address": "10.0.0.1", "port": 80, "version": "v1"}]},
    ),
    ("{location: MESH_EXTERNAL, exportTo: ['*']}", {}),
    (
        "{resolution: DNS, endpoints: [{address: c.example}]}",
        {"dns": True, "endpoints": [{"address": "c.example", "port": 80}]},
    ),
    ("{resolution: DNS, endpoints: [{address: 10.0.0.1}]}", {}),
]


@pytest.mark.parametrize(("fields", "expected"), ENTRIES, ids=[e for e, _ in ENTRIES])
def test_a_service_entry(fields: str, expected: dict[str, Any]) -> None:
    assert only_cluster(route(), entry(**yaml.safe_load(fields))) == {**BASE, **expected}


def test_dns_without_endpoints_resolves_the_host() -> None:
    doc = entry(resolution="DNS")
    del doc["spec"]["endpoints"]
    expected = {**BASE, "dns": True, "endpoints": [{"address": HOST, "port": 80}]}
    assert only_cluster(route(), doc) == expected


def test_names_of_the_service_entry_are_verified_too() -> None:
    made = only_cluster(route(), entry(subjectAltNames=["spiffe://x/y"]), rule("{tls: {mode: SIMPLE}}"))
    assert made["tls"]["sans"] == ["spiffe://x/y"]


def test_entries_of_one_host_add_up() -> None:
    other = entry(endpoints=[{"address": "10.0.0.2"}])
    other["metadata"]["name"] = "y"
    assert [e["address"] for e in only_cluster(route(), entry(), other)["endpoints"]] == [
        "10.0.0.1",
        "10.0.0.2",
    ]


def test_subsets_choose_by_labels() -> None:
    ends = [{"address": f"10.0.0.{i}", "labels": {"version": v}} for i, v in enumerate(("v1", "v2", "v1"))]
    subsets = [{"name": "one", "labels": {"version": "v1"}}]
    made = only_cluster(
        route(subset="one"), entry(endpoints=ends), obj("DestinationRule", {"host": HOST, "subsets": subsets})
    )
    assert [e["address"] for e in made["endpoints"]] == ["10.0.0.0", "10.0.0.2"]


def test_workload_entries_that_are_selected() -> None:
    doc = entry(workloadSelector={"labels": {"app": "b"}})
    del doc["spec"]["endpoints"]
    vms = [
        obj("WorkloadEntry", {"address": "10.0.0.1", "labels": {"app": "b"}, "ports": {"http": 8}}, "vm1"),
        obj("WorkloadEntry", {"address": "10.0.0.2"}, "vm2", labels={"app": "b", "version": "v2"}),
        obj("WorkloadEntry", {"address": "10.0.0.3"}, "vm3"),
        obj("WorkloadEntry", {"address": "10.0.0.4", "labels": {"app": "b"}}, "vm4", namespace="other"),
    ]
    assert only_cluster(route(), doc, *vms)["endpoints"] == [
        {"address": "10.0.0.1", "port": 8, "workload": "vm1", "namespace": "default"},
        {"address": "10.0.0.2", "port": 80, "workload": "vm2", "namespace": "default", "version": "v2"},
    ]


def test_a_destination_without_endpoints_is_warned_of() -> None:
    doc = entry(workloadSelector={"labels": {"app": "b"}})
    del doc["spec"]["endpoints"]
    made = config(route(), doc)
    assert made["clusters"][0]["endpoints"] == []
    assert "gives no endpoint to outbound|80||b.example: requests to it get 503" in made["warnings"][0]


def test_plain_http_to_an_https_port_is_warned_of() -> None:
    doc = entry(ports=[{"number": 443, "name": "https", "protocol": "HTTPS"}])
    assert "b.example:443 is HTTPS, and is sent plain HTTP" in config(route(), doc)["warnings"][0]
    assert "warnings" not in config(route(), doc, rule("{tls: {mode: SIMPLE}}"))


def test_a_service_may_have_a_short_name() -> None:
    doc = entry(hosts=["backend"])
    assert only_cluster(route(host="backend"), doc)["service"] == "backend"
    doc = entry(hosts=["backend.default.svc.cluster.local"])
    assert only_cluster(route(host="backend"), doc)["service"] == "backend.default.svc.cluster.local"


def test_clusters_of_one_content_share_a_tls_context() -> None:
    docs = [
        obj(
            "VirtualService",
            {"hosts": [h], "gateways": ["gw"], "http": [{"route": [{"destination": {"host": h}}]}]},
            h,
        )
        for h in ("a.example", "c.example")
    ]
    docs.append(entry(hosts=["a.example", "c.example"]))
    docs += [
        obj("DestinationRule", {"host": h, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}, h)
        for h in ("a.example", "c.example")
    ]
    made = config(*docs)
    assert [t["name"] for t in made["tls"]] == ["client/a.example"]
    assert [(c["tls"]["context"], c["tls"]["sni"]) for c in made["clusters"]] == [
        ("client/a.example", "a.example"),
        ("client/a.example", "c.example"),
    ]
