"""Rules of a delegate under the rule that delegates to it: Istio's examples and rules."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh.compile.edge import compile_edge
from fastmesh.compile.services import compile_service
from fastmesh.compile.world import Workload, World
from fastmesh.model.delegates import conflict, expanded, merge_match
from fastmesh.model.index import Index
from fastmesh.model.load import load_dicts
from fastmesh.model.validate import validate

HEAD = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: %s, namespace: %s}}"


def vs(name: str, spec: str, namespace: str = "default") -> dict[str, Any]:
    return {**yaml.safe_load(HEAD % (name, namespace)), "spec": yaml.safe_load(spec)}


ROOT = vs(
    "root",
    """
hosts: [shop.example]
http:
- name: product
  match: [{uri: {prefix: /product}}]
  delegate: {name: product, namespace: a}
  timeout: 3s
  headers: {request: {set: {x-root: "1"}}}
- match: [{uri: {prefix: /review}}]
  delegate: {name: review}
- route: [{destination: {host: rest}}]
""",
)
PRODUCT = vs(
    "product",
    """
http:
- name: v2
  match: [{uri: {prefix: /product/v2}}, {uri: {exact: /product}, method: {exact: PUT}}]
  route: [{destination: {host: product, subset: v2}}]
- match: [{uri: {exact: /product/old}}]
  redirect: {uri: /product}
- route: [{destination: {host: product}}]
  timeout: 1s
  mirror: {host: product-next}
""",
    "a",
)
REVIEW = vs("review", "http: [{route: [{destination: {host: review}}]}]")


def problems(*docs: dict[str, Any], edge: bool = False) -> list[tuple[str, str, str]]:
    loaded = load_dicts(list(docs))
    assert not loaded.problems, loaded.problems
    return [(p.severity, p.path, p.message) for p in validate(loaded.resources, edge=edge)]


def test_rules_are_merged_in_their_place() -> None:
    index = Index(load_dicts([ROOT, PRODUCT, REVIEW]).ok())
    made = expanded(index, index.by_key["VirtualService", "default", "root"]).spec["http"]
    assert [r.get("name") for r in made] == ["product-v2", "product", "product", None, None]
    first, third, second, review, rest = made
    assert first["match"] == [
        {"uri": {"prefix": "/product/v2"}},
        {"uri": {"exact": "/product"}, "method": {"exact": "PUT"}},
    ]
    product = "product.a.svc.cluster.local"
    assert first["route"] == [{"destination": {"host": product, "subset": "v2"}}]
    assert (first["timeout"], first["headers"]) == (3000, {"request": {"set": {"x-root": "1"}}})
    assert second["match"] == [{"uri": {"prefix": "/product"}}] and second["timeout"] == 1000
    assert second["mirror"] == {"host": "product-next.a.svc.cluster.local"}
    assert third["redirect"] == {"uri": "/product"} and "timeout" not in third  # which a redirect has not
    assert review["match"] == [{"uri": {"prefix": "/review"}}]
    assert "match" not in rest
    errors = [message for severity, _, message in problems(ROOT, PRODUCT, REVIEW) if severity == "error"]
    assert len(errors) == 1 and "there is no subset v2" in errors[0]  # said at the delegate


def test_a_sidecar_gets_the_delegates_rules() -> None:
    root = vs(
        "root",
        "hosts: [reviews]\nhttp: [{match: [{uri: {prefix: /x}}], delegate: {name: leaf}}]",
    )
    leaf = vs("leaf", "http: [{route: [{destination: {host: ratings}}], mirror: {host: shadow}}]")
    world = World(
        load_dicts([root, leaf]).ok(),
        [
            Workload(name=n, service=n, namespace="default", address="127.0.0.1", port=p, app_port=80)
            for n, p in (("reviews", 1), ("ratings", 2), ("shadow", 3))
        ],
    )
    made = compile_service(world, "reviews.default.svc.cluster.local")
    assert made is not None
    (route,) = made["virtual_hosts"][0]["routes"]
    assert route["path"] == {"op": "prefix", "value": "/x"}
    assert route["dests"][0]["cluster"] == "outbound|80||ratings.default.svc.cluster.local"
    assert made["needs"] == ["ratings.default.svc.cluster.local", "shadow.default.svc.cluster.local"]
    for touched in ("ratings", "shadow"):
        changed = world.dependents({f"{touched}.default.svc.cluster.local"})
        assert "reviews.default.svc.cluster.local" in changed


def test_an_edge_gets_them_too(tmp_path: Any) -> None:
    docs = yaml.safe_load_all("""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw}
spec: {servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app}
spec:
  hosts: [app.local]
  ports: [{number: 80, name: http}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
""")
    root = vs(
        "root", 'hosts: ["*"]\ngateways: [gw]\nhttp: [{match: [{uri: {prefix: /x}}], delegate: {name: leaf}}]'
    )
    leaf = vs("leaf", "http: [{route: [{destination: {host: app.local}}]}]")
    loaded = load_dicts([*docs, root, leaf])
    config = compile_edge(loaded.ok(), tmp_path)
    (vhost,) = config["tables"][0]["virtual_hosts"]
    assert [(r["path"]["value"], r["dests"][0]["cluster"]) for r in vhost["routes"]] == [
        ("/x", "outbound|80||app.local")
    ]
    assert "warnings" not in config


CONFLICTS = [
    ({}, {}, False),
    ({"exact": "/a"}, None, False),
    ({"exact": "/a"}, {"exact": "/a"}, False),
    ({"exact": "/a"}, {"exact": "/b"}, True),
    ({"exact": "/a"}, {"prefix": "/a"}, True),
    ({"prefix": "/a"}, {"prefix": "/a/b"}, False),
    ({"prefix": "/a"}, {"exact": "/a/b"}, False),
    ({"prefix": "/a/b"}, {"prefix": "/a"}, True),
    ({"prefix": "/a"}, {"exact": "/b"}, True),
    ({"regex": "a"}, {"exact": "a"}, True),
    ({"prefix": "a"}, {"regex": "a"}, True),
]


@pytest.mark.parametrize(("root", "own", "bad"), CONFLICTS)
def test_conditions_on_one_string(root: Any, own: Any, bad: bool) -> None:
    assert conflict(root, own) is bad


MERGED = [
    ("{uri: {prefix: /a}}", "{uri: {exact: /a/b}}", "{uri: {exact: /a/b}}"),
    ("{uri: {prefix: /a}}", "{method: {exact: GET}}", "{uri: {prefix: /a}, method: {exact: GET}}"),
    ("{uri: {prefix: /a}, ignoreUriCase: true}", "{uri: {exact: /a}}", None),
    ("{headers: {a: {exact: x}}}", "{headers: {b: {exact: y}}}", "{headers: {a: {exact: x}, b: {exact: y}}}"),
    ("{headers: {a: {exact: x}}}", "{headers: {a: {exact: y}}}", None),
    ("{port: 80}", "{port: 81}", None),
    ("{port: 80}", "{uri: {exact: /}}", "{port: 80, uri: {exact: /}}"),
    ("{sourceLabels: {a: x}}", "{sourceLabels: {b: y}}", "{sourceLabels: {a: x, b: y}}"),
    ("{sourceLabels: {a: x}}", "{sourceLabels: {a: y}}", None),
    ("{sourceNamespace: a}", "{sourceNamespace: b}", None),
    ("{gateways: [a, b]}", "{gateways: [b]}", "{gateways: [b]}"),
    ("{gateways: [a]}", "{gateways: [b]}", None),
    ("{name: r, port: 80}", "{name: l, port: 80}", "{name: r-l, port: 80}"),
]


@pytest.mark.parametrize(("root", "own", "both"), MERGED)
def test_matches(root: str, own: str, both: str | None) -> None:
    made = merge_match(yaml.safe_load(root), yaml.safe_load(own))
    assert made == (None if both is None else yaml.safe_load(both))


BAD = [
    (
        "http: [{match: [{uri: {exact: /review}}], route: [{destination: {host: r}}]}]",
        "error",
        "spec.http[0].match",
        "contradicts http[0] of VirtualService default/leaf: no request matches both",
    ),
    (
        "hosts: [r]\nhttp: [{route: [{destination: {host: r}}]}]",
        "error",
        "spec.http[0].delegate",
        "has hosts of its own",
    ),
]


@pytest.mark.parametrize(("leaf", "severity", "path", "message"), BAD)
def test_what_cannot_be_merged(leaf: str, severity: str, path: str, message: str) -> None:
    root = vs("root", "hosts: [a.b]\nhttp: [{match: [{uri: {prefix: /x}}], delegate: {name: leaf}}]")
    found = [p for p in problems(root, vs("leaf", leaf)) if p[0] == "error"]
    assert len(found) == 1 and found[0][:2] == (severity, path) and message in found[0][2]


def test_references_that_lead_nowhere() -> None:
    root = vs("root", "hosts: [a.b]\nhttp: [{delegate: {name: leaf}}]")
    nowhere = "there is no VirtualService default/leaf"
    assert problems(root) == [("warning", "spec.http[0].delegate", nowhere)]
    assert ("error", "spec.http[0].delegate", nowhere) in problems(root, edge=True)
    leaf = vs("alone", "http: [{directResponse: {status: 200}}]")
    ((severity, path, message),) = problems(leaf)
    assert (severity, path) == ("warning", "spec.hosts") and "delegates to this one" in message


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("hosts: [a.b]\nhttp: [{delegate: {}}]", "spec.http[0].delegate.name: is required"),
        (
            "hosts: [a.b]\nhttp: [{delegate: {name: x}, route: [{destination: {host: r}}]}]",
            "spec.http[0].route: is not possible beside delegate, as in Istio",
        ),
        (
            "http: [{delegate: {name: x}}]",
            "spec.http[0].delegate: a delegate cannot delegate further, as in Istio",
        ),
        (
            "gateways: [gw]\nhttp: [{directResponse: {status: 200}}]",
            "spec.gateways: a VirtualService without hosts is for others to delegate to",
        ),
    ],
)
def test_shapes_that_are_refused(spec: str, problem: str) -> None:
    assert problem in [f"{p.path}: {p.message}" for p in load_dicts([vs("x", spec)]).problems]
