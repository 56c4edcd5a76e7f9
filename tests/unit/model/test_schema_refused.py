"""What a schema refuses, or takes with a warning: the exact path and message of each."""

from __future__ import annotations

from typing import Any

import pytest

from fastmesh.model.load import load_dicts
from fastmesh.model.schema import KINDS
from helpers.resources import VALID, check, put, virtual_service

REFUSED: list[tuple[str, str, Any, str]] = [
    # kind, path below spec, value, problem below spec
    ("DestinationRule", "host", "", "host: must not be empty"),
    ("DestinationRule", "exportTo", ["x"], 'exportTo[0]: a visibility other than "*" is not implemented yet'),
    (
        "DestinationRule",
        "trafficPolicy",
        {"loadBalancer": {"simple": "PASSTHROUGH"}, "outlierDetection": {}},
        "trafficPolicy.outlierDetection: contradicts loadBalancer PASSTHROUGH, which chooses among no "
        "endpoints",
    ),
    (
        "DestinationRule",
        "trafficPolicy.loadBalancer.simple",
        "ROUNDROBIN",
        'trafficPolicy.loadBalancer.simple: unknown value "ROUNDROBIN"; known: UNSPECIFIED, '
        "LEAST_CONN, RANDOM, "
        "ROUND_ROBIN, LEAST_REQUEST, PEAK_EWMA, PASSTHROUGH",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.tcp.connectTimeout",
        "0s",
        "trafficPolicy.connectionPool.tcp.connectTimeout: must be at least 1ms",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.tcp.maxConnections",
        0,
        "trafficPolicy.connectionPool.tcp.maxConnections: must be 1 to 2147483647, not 0",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.http.maxRequestsPerConnection",
        2**29 + 1,
        "trafficPolicy.connectionPool.http.maxRequestsPerConnection: must be 0 to 536870912, not 536870913",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.http.h2UpgradePolicy",
        "ALWAYS",
        'trafficPolicy.connectionPool.http.h2UpgradePolicy: unknown value "ALWAYS"; known: DEFAULT, '
        "DO_NOT_UPGRADE, UPGRADE",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.http.useClientProtocol",
        "yes",
        "trafficPolicy.connectionPool.http.useClientProtocol: must be true or false, not a string",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.http.maxConcurrentStreams",
        2**31,
        "trafficPolicy.connectionPool.http.maxConcurrentStreams: must be 0 to 2147483647, not 2147483648",
    ),
    (
        "DestinationRule",
        "trafficPolicy.tls",
        {"mode": "MUTUAL", "privateKey": "k"},
        "trafficPolicy.tls.clientCertificate: is required by mode MUTUAL",
    ),
    (
        "DestinationRule",
        "trafficPolicy.tls",
        {"mode": "SIMPLE", "privateKey": "k"},
        "trafficPolicy.tls.privateKey: is possible with mode MUTUAL only, not with SIMPLE",
    ),
    (
        "DestinationRule",
        "trafficPolicy.tls",
        {"mode": "ISTIO_MUTUAL", "sni": "a.b"},
        "trafficPolicy.tls.sni: the mesh decides it with mode ISTIO_MUTUAL",
    ),
    (
        "DestinationRule",
        "trafficPolicy.tls",
        {"mode": "DISABLE", "caCertificates": "a"},
        "trafficPolicy.tls.caCertificates: has no meaning with mode DISABLE",
    ),
    (
        "DestinationRule",
        "trafficPolicy.portLevelSettings",
        [{"tls": {"mode": "DISABLE"}}],
        "trafficPolicy.portLevelSettings[0].port: is required",
    ),
    (
        "DestinationRule",
        "trafficPolicy.portLevelSettings",
        [{"port": {"number": 80}}, {"port": {"number": 80}}],
        "trafficPolicy.portLevelSettings[1].port: port 80 is given twice",
    ),
    (
        "DestinationRule",
        "subsets",
        [{"name": "a"}, {"name": "a"}],
        "subsets[1].name: the subset a is defined twice",
    ),
    (
        "DestinationRule",
        "subsets",
        [{"name": "a", "labels": {"v": 1}}],
        "subsets[0].labels.v: must be a string, not a whole number",
    ),
    ("Gateway", "servers", [], "servers: must not be empty"),
    (
        "Gateway",
        "servers[0].tls",
        {"mode": "SIMPLE"},
        "servers[0].tls.serverCertificate: is required by mode SIMPLE",
    ),
    *[
        (
            "Gateway",
            "servers[0].port.protocol",
            p,
            f"servers[0].port.protocol: {p.upper()}: not implemented yet",
        )
        for p in ("grpc-web", "HTTP_PROXY", "UDP")
    ],
    *[
        ("Gateway", "servers[0].port.protocol", p, f"servers[0].tls.mode: contradicts protocol {named}")
        for p, named in (
            ("HTTP", "HTTP"),
            ("http2", "HTTP2"),
            ("Grpc", "GRPC"),
            ("Kubernetes.io/H2C", "HTTP2"),
        )
    ],
    (
        "Gateway",
        "servers[0].port.targetPort",
        80,
        "servers[0].port.targetPort: deprecated by Istio and without effect",
    ),
    ("Gateway", "servers[0].port", {"number": 80}, "servers[0].port.protocol: is required"),
    (
        "Gateway",
        "servers[0].bind",
        "unix:///x",
        "servers[0].bind: listening on a Unix socket is not implemented yet",
    ),
    ("Gateway", "servers[0].bind", "a.b", 'servers[0].bind: "a.b" is not an IP address'),
    ("Gateway", "servers[0].hosts", [], "servers[0].hosts: must not be empty"),
    ("Gateway", "servers[0].hosts", ["A/b"], 'servers[0].hosts[0]: "A" is not a namespace'),
    (
        "Gateway",
        "servers[0].tls",
        {"serverCertificate": "a.pem"},
        "servers[0].tls.serverCertificate: has no meaning with mode PASSTHROUGH, the default",
    ),
    (
        "Gateway",
        "servers[0].tls",
        {"httpsRedirect": True},
        "servers[0].tls.mode: is required by protocol HTTPS",
    ),
    (
        "Gateway",
        "servers[0].tls.httpsRedirect",
        True,
        "servers[0].tls.httpsRedirect: contradicts protocol HTTPS: this server is where it would redirect to",
    ),
    *[
        ("Gateway", "servers[0].tls.mode", mode, f"servers[0].tls.mode: {mode}: not implemented yet")
        for mode in ("AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL")
    ],
    ("Gateway", "servers[0].tls.mode", "MUTUAL", "servers[0].tls.caCertificates: is required by mode MUTUAL"),
    (
        "Gateway",
        "servers[0].tls",
        {"mode": "SIMPLE", "privateKey": "k"},
        "servers[0].tls.serverCertificate: is required by mode SIMPLE",
    ),
    (
        "Gateway",
        "servers[0].tls.caCertificates",
        "ca",
        "servers[0].tls.caCertificates: is possible with mode MUTUAL only: SIMPLE asks clients for "
        "no certificate",
    ),
    (
        "Gateway",
        "servers[0].tls.minProtocolVersion",
        "TLSV1_1",
        "servers[0].tls.minProtocolVersion: TLSV1_1: not implemented yet",
    ),
    (
        "Gateway",
        "servers[0].tls.maxProtocolVersion",
        "TLSV1_2",
        "servers[0].tls.maxProtocolVersion: TLSV1_2: not implemented yet",
    ),
    ("ServiceEntry", "hosts", ["*"], 'hosts[0]: "*" cannot be the host of a ServiceEntry'),
    (
        "ServiceEntry",
        "addresses",
        ["10.0.0.0/8"],
        "addresses[0]: a network as address is not implemented yet",
    ),
    ("ServiceEntry", "addresses", ["a.b"], 'addresses[0]: "a.b" is not an IP address'),
    ("ServiceEntry", "ports", [], "ports: needs at least one port"),
    (
        "ServiceEntry",
        "ports",
        [{"number": 1, "name": "a"}, {"number": 1, "name": "b"}],
        "ports[1].number: 1 is given twice",
    ),
    (
        "ServiceEntry",
        "ports",
        [{"number": 1, "name": "a"}, {"number": 2, "name": "a"}],
        "ports[1].name: a is given twice",
    ),
    ("ServiceEntry", "ports[0].protocol", "UDP", "ports[0].protocol: UDP: not implemented yet"),
    (
        "ServiceEntry",
        "ports[0].name",
        "grpc-web-api",
        "ports[0].protocol: is required: the name grpc-web-api says GRPC-WEB, which is not implemented yet",
    ),
    (
        "ServiceEntry",
        "ports[0].name",
        "udp",
        "ports[0].protocol: is required: the name udp says UDP, which is not implemented yet",
    ),
    (
        "ServiceEntry",
        "ports[0].protocol",
        "h2",
        'ports[0].protocol: unknown value "H2"; known: HTTP, HTTPS, '
        "HTTP2, GRPC, kubernetes.io/h2c, TCP, TLS, MONGO, MYSQL, REDIS, GRPC-WEB, HTTP_PROXY, UDP",
    ),
    *[
        ("ServiceEntry", "resolution", r, f"resolution: {r}: not implemented yet")
        for r in ("NONE", "DNS_ROUND_ROBIN", "DYNAMIC_DNS")
    ],
    (
        "ServiceEntry",
        "location",
        "HERE",
        'location: unknown value "HERE"; known: MESH_EXTERNAL, MESH_INTERNAL',
    ),
    ("ServiceEntry", "endpoints", [], "resolution: STATIC needs endpoints or workloadSelector"),
    (
        "ServiceEntry",
        "endpoints[0].address",
        "a.b",
        "endpoints[0].address: a.b must be an IP address with resolution STATIC",
    ),
    (
        "ServiceEntry",
        "endpoints[0].address",
        "unix:///x",
        "endpoints[0].address: a Unix socket as endpoint is not implemented yet",
    ),
    (
        "ServiceEntry",
        "endpoints[0].ports",
        {"grpc": 1},
        "endpoints[0].ports.grpc: no port of this ServiceEntry has this name",
    ),
    ("ServiceEntry", "endpoints[0].weight", 65536, "endpoints[0].weight: must be 0 to 65535, not 65536"),
    (
        "ServiceEntry",
        "workloadSelector",
        {"labels": {"a": "b"}},
        "endpoints: workloadSelector and endpoints exclude each other",
    ),
    ("ServiceEntry", "exportTo", ["."], 'exportTo[0]: a visibility other than "*" is not implemented yet'),
    ("WorkloadEntry", "address", "", 'address: "" is not a host name or IP address'),
    ("WorkloadEntry", "ports", {"http": 0}, "ports.http: must be 1 to 65535, not 0"),
    (
        "PeerAuthentication",
        "mtls",
        {"mode": "strict"},
        'mtls.mode: unknown value "strict"; known: UNSET, DISABLE, PERMISSIVE, STRICT',
    ),
    ("PeerAuthentication", "portLevelMtls", {}, "portLevelMtls: must not be empty"),
    (
        "PeerAuthentication",
        "portLevelMtls",
        {"http": {"mode": "STRICT"}},
        'portLevelMtls.http: "http" is not a port number',
    ),
    ("PeerAuthentication", "selector", {"labels": {}}, "selector.labels: unknown field of WorkloadSelector"),
]


@pytest.mark.parametrize(("kind", "path", "value", "problem"), REFUSED, ids=lambda v: str(v)[:60])
def test_refused(kind: str, path: str, value: Any, problem: str) -> None:
    spec = VALID[kind]()
    put(spec, path, value)
    problems = check(kind, spec)
    assert f"spec.{problem}" in problems


def test_a_selector_is_needed_for_port_level_mtls() -> None:
    assert check("PeerAuthentication", {"portLevelMtls": {"80": {"mode": "STRICT"}}}) == [
        "spec.portLevelMtls: needs a selector with matchLabels"
    ]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("tiemout", 'did you mean "timeout"?'),
        ("header", 'did you mean "headers"?'),
        ("direct_response", 'did you mean "directResponse"?'),
        ("cors_policy", 'did you mean "corsPolicy"?'),
        ("zzz", ""),
    ],
)
def test_did_you_mean(word: str, hint: str) -> None:
    spec = virtual_service()
    spec["http"][0][word] = 1
    doc = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    assert [(p.path, p.message, p.hint) for p in load_dicts([doc]).problems] == [
        (f"spec.http[0].{word}", "unknown field of HTTPRoute", hint)
    ]


WARNED: list[tuple[str, str, Any, str]] = [
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"prefix": "x"},
        "http[0].match[0].uri.prefix: no path begins so: this never matches",
    ),
    (
        "VirtualService",
        "http[0].match[0].method",
        {"exact": "get"},
        "http[0].match[0].method.exact: methods are case-sensitive and in upper case: this never matches",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"perTryTimeout": "1s"},
        "http[0].retries: without attempts Istio means 0: nothing is retried",
    ),
    (
        "VirtualService",
        "http",
        [{"directResponse": {"status": 200}}, {"directResponse": {"status": 201}}],
        "http[1]: is never reached",
    ),
    (
        "DestinationRule",
        "trafficPolicy.loadBalancer.simple",
        "LEAST_CONN",
        "trafficPolicy.loadBalancer.simple: LEAST_CONN is deprecated by Istio and means LEAST_REQUEST",
    ),
    (
        "DestinationRule",
        "trafficPolicy.connectionPool.http",
        {"useClientProtocol": True, "h2UpgradePolicy": "UPGRADE"},
        "trafficPolicy.connectionPool.http.h2UpgradePolicy: has no effect beside useClientProtocol, "
        "as in Istio",
    ),
    (
        "DestinationRule",
        "trafficPolicy.tls.insecureSkipVerify",
        True,
        "trafficPolicy.tls.insecureSkipVerify: the server's certificate is not verified: anyone can "
        "pose as it",
    ),
]


@pytest.mark.parametrize(("kind", "path", "value", "problem"), WARNED, ids=lambda v: str(v)[:60])
def test_warned_and_taken(kind: str, path: str, value: Any, problem: str) -> None:
    spec = VALID[kind]()
    put(spec, path, value)
    doc = {"apiVersion": KINDS[kind][0][0], "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    loaded = load_dicts([doc])
    assert [(p.severity, f"{p.path}: {p.message}") for p in loaded.problems] == [
        ("warning", f"spec.{problem}")
    ]
    assert len(loaded.resources) == 1
