"""LocalRateLimit: what is refused, and which routes of the inbound side of whose sidecar become of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh.agent.assemble import assemble, identity_contexts
from fastmesh.compile.cells import CellMap
from fastmesh.compile.snapshot import pack
from fastmesh.compile.world import World
from fastmesh.model import wire
from fastmesh.model.load import load_dicts
from fastmesh.model.validate import validate
from fastmesh_control.topics import policy_of

BUCKET = "{maxTokens: 10, fillInterval: 1s}"
WEB = "spiffe://cluster.local/ns/default/sa/web"


def limit(rules: str, name: str = "x", namespace: str = "default", selector: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {"rules": yaml.safe_load(rules)}
    if selector:
        spec["selector"] = {"matchLabels": yaml.safe_load(selector)}
    return {
        "apiVersion": "networking.fastmesh.io/v1",
        "kind": "LocalRateLimit",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def problems(rules: str) -> list[str]:
    return [f"{p.path}: {p.message}" for p in load_dicts([limit(rules)]).problems]


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ("[]", "spec.rules: must not be empty"),
        ("[{}]", "spec.rules[0]: needs tokenBucket, perIdentity or overrides"),
        (
            "[{match: [{port: 80}], tokenBucket: " + BUCKET + "}]",
            "spec.rules[0].match[0].port: has no meaning here",
        ),
        (
            "[{match: [{gateways: [a]}], tokenBucket: " + BUCKET + "}]",
            "spec.rules[0].match[0].gateways: has no meaning here",
        ),
        (
            "[{match: [{sourceLabels: {app: a}, uri: {exact: /}}], tokenBucket: " + BUCKET + "}]",
            "spec.rules[0].match[0].sourceLabels: has no meaning here",
        ),
        (
            "[{perIdentity: {maxTokens: 11, fillInterval: 1s}, tokenBucket: " + BUCKET + "}]",
            "spec.rules[0].perIdentity: allows one caller more than tokenBucket allows all together",
        ),
        (
            "[{perIdentity: {maxTokens: 1, fillInterval: 10ms}}]",
            "spec.rules[0].perIdentity.fillInterval: must be at least 50ms (as in Envoy)",
        ),
        (
            "[{overrides: [{identities: [], tokenBucket: " + BUCKET + "}]}]",
            "spec.rules[0].overrides[0].identities: must not be empty",
        ),
        (
            "[{overrides: [{identities: [web], tokenBucket: " + BUCKET + "}]}]",
            'spec.rules[0].overrides[0].identities[0]: "web" is not the identity of a workload',
        ),
        (
            "[{overrides: [{identities: [td/a, spiffe://td/a], tokenBucket: " + BUCKET + "}]}]",
            "spec.rules[0].overrides[0].identities[1]: is named twice in this rule",
        ),
        (
            "[{tokenBucket: "
            + BUCKET
            + ", overrides: [{identities: [td/a], tokenBucket: {maxTokens: 20, fillInterval: 1s}}]}]",
            "spec.rules[0].overrides[0].tokenBucket: allows one caller more than the rule's tokenBucket "
            "allows all together",
        ),
        (
            f"[{{overrides: [{{identities: [{', '.join(f'td/{i}' for i in range(65))}], "
            f"tokenBucket: {BUCKET}}}]}}]",
            "spec.rules[0].overrides: names more than 64 callers",
        ),
    ],
)
def test_refused(rules: str, problem: str) -> None:
    assert problems(rules)[0] == problem


def world(*documents: dict[str, Any]) -> World:
    loaded = load_dicts(list(documents))
    assert not loaded.problems
    for i, resource in enumerate(loaded.resources):
        resource.created = f"{i:09d}"
    return World(loaded.resources, [], {})


def routes(of: World, labels: dict[str, str], namespace: str = "default") -> list[Any]:
    topic = wire.unpack_payload(wire.pack_payload(policy_of(of, namespace)))
    return wire.effective_limits(topic, labels)


def test_a_rule_becomes_a_route_for_each_match_and_they_share_its_buckets() -> None:
    rules = f"""
    - name: a
      match: [{{uri: {{prefix: /a}}}}, {{name: h, headers: {{x-h: {{exact: "1"}}}}}}]
      tokenBucket: {BUCKET}
      perIdentity: {{maxTokens: 2, tokensPerFill: 1, fillInterval: 1s}}
      overrides: [{{identities: [cluster.local/ns/default/sa/web], tokenBucket: {BUCKET}}}]
    - match: [{{uri: {{exact: /healthz}}}}]
    - tokenBucket: {BUCKET}
    """
    first, second, healthz, rest = routes(world(limit(rules)), {})
    assert first["path"] == {"op": "prefix", "value": "/a"} and first["name"] == "a"
    assert second["conds"][0]["name"] == "x-h" and second["name"] == "a.h"
    assert first["limits"] == second["limits"]
    assert [(each["per"], each.get("who")) for each in first["limits"]] == [
        ("named", WEB),
        ("identity", None),
        ("route", None),
    ]
    assert healthz == {"path": {"op": "exact", "value": "/healthz"}}
    assert set(rest) == {"limits"} and rest["limits"][0]["owner"] != first["limits"][0]["owner"]


def test_who_is_selected_and_in_which_order() -> None:
    def one(name: str, namespace: str, selector: str = "") -> dict[str, Any]:
        return limit(f"[{{name: {name}, tokenBucket: {BUCKET}}}]", name, namespace, selector)

    made = world(
        one("root", "istio-system"),
        one("root-web", "istio-system", "{app: web}"),
        one("all", "default"),
        one("v1", "default", "{app: web, version: v1}"),
        one("web", "default", "{app: web}"),
        one("elsewhere", "other"),
    )

    def names(labels: dict[str, str], namespace: str = "default") -> list[str]:
        return [route["name"] for route in routes(made, labels, namespace)]

    assert names({"app": "web", "version": "v1"}) == ["v1", "web", "all", "root-web", "root"]
    assert names({"app": "web"}) == ["web", "all", "root-web", "root"]
    assert names({"app": "reviews"}) == ["all", "root"]
    assert names({"app": "web"}, "other") == ["elsewhere", "root-web", "root"]
    assert names({"app": "web"}, "istio-system") == ["root-web", "root"]


SPEC: Any = {
    "bundle": {}, "service": "web", "namespace": "default", "version": "v1", "app": ("127.0.0.1", 9080),
    "app_protocol": "", "inbound": ("0.0.0.0", 15006), "address": "", "locality": "",
    "outbound": ("127.0.0.1", 15001),
}  # fmt: skip


def test_the_inbound_side_of_a_sidecar_takes_all_behind_the_limits() -> None:
    overrides = ", ".join(f"td/{i}" for i in range(64))
    rules = f"""
    - match: [{{uri: {{regex: "/a.*"}}}}]
      tokenBucket: {BUCKET}
      perIdentity: {BUCKET}
      overrides: [{{identities: [{overrides}], tokenBucket: {BUCKET}}}]
    """
    limits = routes(world(limit(rules)), {"app": "web"})
    identity = identity_contexts(b"key", b"chain", b"roots", "cluster.local")
    config, problems = assemble("n", SPEC, "strict", {}, identity, limits)
    made = config["tables"][0]["virtual_hosts"][0]["routes"]
    assert [set(route) for route in made] == [{"path", "limits", "dests"}, {"dests"}]
    assert made[0]["dests"] == made[1]["dests"] and not problems
    assert pack(config, CellMap())


def test_an_older_control_plane_says_nothing_of_limits() -> None:
    assert wire.effective_limits({"selective": [], "general": [], "default": "STRICT"}, {"app": "web"}) == []


def test_it_has_no_effect_on_an_edge_and_that_is_said() -> None:
    loaded = load_dicts([limit(f"[{{tokenBucket: {BUCKET}}}]")])
    found = [(p.kind, p.severity, p.message) for p in validate(loaded.resources, edge=True)]
    assert ("LocalRateLimit", "warning", "has no effect on an edge") in found
    assert not validate(loaded.resources, services=[])
