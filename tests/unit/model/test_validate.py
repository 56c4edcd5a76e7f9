"""What objects must say together: references, duplicates, contradictions, all told with object and path."""

from __future__ import annotations

from typing import Any

import pytest

from fastmesh.model.load import load_text
from fastmesh.model.problems import Problem
from fastmesh.model.validate import validate


def obj(kind: str, spec: str, name: str = "x", namespace: str = "default") -> str:
    group = "security" if kind == "PeerAuthentication" else "networking"
    return (
        f"---\napiVersion: {group}.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def server(port: int = 80, hosts: str = "['*']", tls: str = "") -> str:
    protocol = "HTTPS" if "mode" in tls else "HTTP"
    return (
        f"{{port: {{number: {port}, name: p{port}, protocol: {protocol}}}, hosts: {hosts}"
        + (f", tls: {tls}" if tls else "")
        + "}"
    )


GATEWAY = obj("Gateway", f"{{servers: [{server()}]}}", "gw")
ENTRY = obj(
    "ServiceEntry",
    "{hosts: [b.example], resolution: DNS, ports: [{number: 80, name: http}, {number: 81, name: alt}]}",
    "b",
)
RULE = obj("DestinationRule", "{host: b.example, subsets: [{name: v1}]}", "b")


def rule(destination: str = "{host: b.example}", gateways: str = "[gw]", hosts: str = "[a.example]") -> str:
    return obj(
        "VirtualService",
        f"{{hosts: {hosts}, gateways: {gateways}, http: [{{route: [{{destination: {destination}}}]}}]}}",
        "vs",
    )


def problems(text: str, **options: Any) -> list[Problem]:
    return validate(load_text(text).ok(), **options)


def told(text: str, **options: Any) -> list[str]:
    return [
        f"{p.severity} {p.kind} {p.name} {p.path}: {p.message}" + (f" ({p.hint})" if p.hint else "")
        for p in problems(text, **options)
    ]


def test_nothing_is_wrong() -> None:
    assert told(GATEWAY + ENTRY + RULE + rule("{host: b.example, subset: v1}"), edge=True) == []


EDGE: list[tuple[str, str, list[str]]] = [
    (
        "a gateway that there is not",
        GATEWAY + ENTRY + rule(gateways="[gw, gv]"),
        [
            "error VirtualService vs spec.gateways[1]: there is no Gateway default/gv "
            '(did you mean "default/gw"?)'
        ],
    ),
    (
        "a gateway of another namespace",
        GATEWAY + ENTRY + rule(gateways="[shop/gw, gw]"),
        ["error VirtualService vs spec.gateways[0]: there is no Gateway shop/gw"],
    ),
    (
        "a rule for sidecars only",
        GATEWAY + ENTRY + rule(gateways="[]"),
        [
            "warning VirtualService vs spec.gateways: applies to sidecars only: this proxy does not use it "
            "(name a Gateway of this file)",
            "warning Gateway gw metadata.name: no VirtualService is bound to this Gateway: "
            "every request gets 404",
        ],
    ),
    (
        "an unknown host",
        GATEWAY + ENTRY + rule("{host: c.example}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.host: no ServiceEntry defines "
            'c.example (did you mean "b.example"?)'
        ],
    ),
    (
        "a short name is a service of the namespace",
        GATEWAY + ENTRY + rule("{host: zz}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.host: no ServiceEntry defines "
            "zz.default.svc.cluster.local (define it with a ServiceEntry)"
        ],
    ),
    (
        "a wildcard as destination",
        GATEWAY + ENTRY + rule("{host: '*.example'}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.host: *.example: "
            "a wildcard is no destination"
        ],
    ),
    (
        "an unknown port",
        GATEWAY + ENTRY + rule("{host: b.example, port: {number: 8}}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.port.number: b.example has no port 8 "
            "(its ports: 80, 81)"
        ],
    ),
    (
        "no port where the listener's is none of the service's",
        GATEWAY.replace("80", "8080") + ENTRY + rule(),
        [
            "error VirtualService vs spec.http[0].route[0].destination: b.example has several ports and "
            "none is chosen (give port.number, one of 80, 81)"
        ],
    ),
    (
        "a subset without a rule",
        GATEWAY + ENTRY + rule("{host: b.example, subset: v1}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.subset: there is no subset v1: "
            "no DestinationRule is for b.example (define the subset with a DestinationRule)"
        ],
    ),
    (
        "an unknown subset",
        GATEWAY + ENTRY + RULE + rule("{host: b.example, subset: v9}"),
        [
            "error VirtualService vs spec.http[0].route[0].destination.subset: there is no subset v9 in the "
            "DestinationRule of b.example (its subsets: v1)"
        ],
    ),
    (
        "an object twice",
        GATEWAY + ENTRY + ENTRY + rule(),
        ["error ServiceEntry b metadata.name: is defined twice (first at line 7)"],
    ),
    (
        "a subset twice, a policy twice",
        GATEWAY
        + ENTRY
        + rule()
        + obj(
            "DestinationRule",
            "{host: b.example, subsets: [{name: v1}], trafficPolicy: {tls: {mode: SIMPLE}}}",
        )
        + obj(
            "DestinationRule",
            "{host: b.example, subsets: [{name: v1}], trafficPolicy: {tls: {mode: SIMPLE}}}",
            "y",
        ),
        [
            "error DestinationRule y spec.subsets[0].name: the subset v1 of b.example is defined by "
            "DestinationRule default/x already",
            "error DestinationRule y spec.trafficPolicy: DestinationRule default/x gives one for b.example "
            "already (a host has one top-level trafficPolicy)",
        ],
    ),
    (
        "mesh identity without a mesh",
        GATEWAY
        + ENTRY
        + rule()
        + obj(
            "DestinationRule",
            "{host: b.example, trafficPolicy: {portLevelSettings: [{port: {number: 80}, "
            "tls: {mode: ISTIO_MUTUAL}}]}}",
        ),
        [
            "error DestinationRule x spec.trafficPolicy.portLevelSettings[0].tls.mode: ISTIO_MUTUAL for an "
            "edge without a control plane: not implemented yet (use MUTUAL with files)"
        ],
    ),
    (
        "a rule for nothing",
        GATEWAY + ENTRY + rule() + obj("DestinationRule", "{host: bb.example}"),
        [
            "warning DestinationRule x spec.host: no ServiceEntry defines bb.example: the rule has no effect "
            '(did you mean "b.example"?)'
        ],
    ),
    (
        "no gateway at all",
        ENTRY,
        ["error   : there is no Gateway: an edge needs one to know where to listen"],
    ),
    (
        "two protocols on a port",
        GATEWAY
        + ENTRY
        + rule(gateways="[gw, tls]")
        + obj(
            "Gateway",
            f"{{servers: [{server(80, tls='{mode: SIMPLE, serverCertificate: c, privateKey: k}')}]}}",
            "tls",
        ),
        [
            "error Gateway tls spec.servers[0].port.protocol: HTTPS contradicts HTTP on port 80 of Gateway "
            "default/gw"
        ],
    ),
    (
        "what has no effect on an edge",
        GATEWAY
        + ENTRY.replace("{hosts", "{addresses: [240.0.0.1], hosts")
        + rule()
        + obj("PeerAuthentication", "{}"),
        [
            "warning ServiceEntry b spec.addresses: has no effect on an edge",
            "warning PeerAuthentication x kind: has no effect on an edge",
        ],
    ),
    (
        "service entries of one host that contradict each other",
        GATEWAY
        + ENTRY
        + rule()
        + obj(
            "ServiceEntry",
            "{hosts: [b.example], resolution: STATIC, endpoints: [{address: 10.0.0.1}], "
            "ports: [{number: 80, name: https, protocol: HTTPS}]}",
        ),
        [
            "error ServiceEntry x spec.ports[0].protocol: contradicts another ServiceEntry of b.example",
            "error ServiceEntry x spec.resolution: contradicts another ServiceEntry of b.example",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [e[1:] for e in EDGE], ids=[e[0] for e in EDGE])
def test_an_edge(text: str, expected: list[str]) -> None:
    assert told(text, edge=True) == expected


SIMPLE = "{mode: SIMPLE, serverCertificate: c, privateKey: k}"
MUTUAL = "{mode: MUTUAL, serverCertificate: c, privateKey: k, caCertificates: ca}"


@pytest.mark.parametrize(
    ("other", "refused"),
    [(SIMPLE, False), (MUTUAL, True), (SIMPLE.replace("}", ", minProtocolVersion: TLSV1_3}"), True)],
)
def test_servers_of_a_port_ask_clients_for_the_same(other: str, refused: bool) -> None:
    """A client could shake hands with one server's name and then ask for the other's host."""
    both = server(443, "[a.example]", SIMPLE) + ", " + server(443, "[b.example]", other)
    text = (
        obj("Gateway", f"{{servers: [{both}]}}", "gw") + ENTRY + rule("{host: b.example, port: {number: 80}}")
    )
    found = problems(text, edge=True)
    assert [p.path.startswith("spec.servers[1].tls") for p in found] == [True] * refused


def test_in_a_mesh_services_come_and_go() -> None:
    text = rule("{host: ratings}", gateways="[mesh]", hosts="[reviews]")
    where = "spec.http[0].route[0].destination.host"
    assert told(text) == [
        f"warning VirtualService vs {where}: no service is known as ratings.default.svc.cluster.local now "
        "(requests get 503 until there is one)"
    ]
    assert told(text, services={"ratings.default.svc.cluster.local"}) == []


def test_in_a_mesh_a_host_has_one_rule() -> None:
    text = rule(gateways="[mesh]") + obj(
        "VirtualService", "{hosts: [c.example, A.example], http: [{directResponse: {status: 200}}]}", "second"
    )
    assert told(text + ENTRY) == [
        "error VirtualService second spec.hosts[1]: a.example is routed by VirtualService default/vs already "
        "(for sidecars a host has one VirtualService: put all its rules there)"
    ]


def test_two_policies_for_the_same_workloads() -> None:
    text = obj("PeerAuthentication", "{mtls: {mode: STRICT}}", "a") + obj("PeerAuthentication", "{}", "b")
    assert told(text) == [
        "error PeerAuthentication b spec.selector: PeerAuthentication default/a is for the same workloads"
    ]
    assert told(text.replace("name: b, namespace: default", "name: b, namespace: shop")) == []


@pytest.mark.parametrize("protocol", ["HTTP2", "GRPC", "kubernetes.io/h2c"])
def test_versions_of_http_share_a_port(protocol: str) -> None:
    other = server(80).replace("protocol: HTTP", f"protocol: {protocol}").replace("['*']", "[a.example]")
    assert protocol in other
    text = obj("Gateway", f"{{servers: [{server(80)}, {other}]}}", "gw") + ENTRY + rule()
    assert told(text, edge=True) == []


def test_what_was_refused_is_not_missed_again() -> None:
    """A file with a broken Gateway says so once, and not also that its VirtualServices refer to nothing."""
    assert told(ENTRY + rule("{host: nowhere.example, subset: v1}"), edge=True, incomplete=True) == []
