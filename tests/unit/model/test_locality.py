"""localityLbSetting and the form of a locality: what is refused, and what is warned of."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh.model.load import load_dicts
from helpers.resources import VALID, check, put

AT = "spec.trafficPolicy.loadBalancer.localityLbSetting"
SEEN = "outlierDetection: {}, "


def problems(policy: str, severity: str, **more: Any) -> list[str]:
    doc = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "x"},
        "spec": {"host": "a.example", "trafficPolicy": yaml.safe_load(policy), **more},
    }
    return [f"{p.path}: {p.message}" for p in load_dicts([doc]).problems if p.severity == severity]


def setting(text: str) -> str:
    return f"{{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {text}}}}}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{distribute: [{from: a, to: {a: 60, b: 30}}]}",
            ".distribute[0].to: the weights add up to 90, not to 100",
        ),
        (
            "{distribute: [{from: a, to: {a: 60, b: 50}}]}",
            ".distribute[0].to: the weights add up to 110, not to 100",
        ),
        ("{distribute: [{from: a, to: {}}]}", ".distribute[0].to: the weights add up to 0, not to 100"),
        ("{distribute: [{from: a, to: {a: 100, b: 0}}]}", ".distribute[0].to.b: must be 1 to 100, not 0"),
        ("{distribute: [{from: a, to: {a: 101}}]}", ".distribute[0].to.a: must be 1 to 100, not 101"),
        ("{distribute: [{from: a}]}", ".distribute[0].to: is required"),
        ("{distribute: [{to: {a: 100}}]}", ".distribute[0].from: is required"),
        (
            "{distribute: [{from: a/*/b, to: {a: 100}}]}",
            '.distribute[0].from: "a/*/b": a star stands for the last part only',
        ),
        (
            "{distribute: [{from: a*, to: {a: 100}}]}",
            '.distribute[0].from: "a*": a star stands for the last part only',
        ),
        (
            "{distribute: [{from: a//b, to: {a: 100}}]}",
            '.distribute[0].from: "a//b" is not region/zone/subzone',
        ),
        (
            "{distribute: [{from: a/b/c/*, to: {a: 100}}]}",
            '.distribute[0].from: "a/b/c/*" is not region/zone/subzone',
        ),
        (
            "{distribute: [{from: a/b/c/d, to: {a: 100}}]}",
            '.distribute[0].from: "a/b/c/d" is not region/zone/subzone',
        ),
        ("{distribute: [{from: a, to: {b: 50, b/c: 50}}]}", '.distribute[0].to["b/c"]: overlaps with b'),
        (
            "{distribute: [{from: a, to: {b/c: 50, 'b/*': 50}}]}",
            '.distribute[0].to["b/*"]: overlaps with b/c',
        ),
        ("{distribute: [{from: a, to: {b: 50, '*': 50}}]}", '.distribute[0].to["*"]: overlaps with b'),
        (
            "{distribute: [{from: a/b, to: {b: 100}}, {from: 'a/*', to: {b: 100}}]}",
            ".distribute[1].from: a/* overlaps with a/b",
        ),
        (
            "{distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}",
            ".failover: distribute and failover exclude each other",
        ),
        ("{failover: [{from: a, to: a}]}", ".failover[0].to: must be another region than from"),
        ("{failover: [{from: a, to: b/c}]}", '.failover[0].to: "b/c" is not a region'),
        ("{failover: [{from: '*', to: b}]}", '.failover[0].from: "*" is not a region'),
        ("{failover: [{from: a}]}", ".failover[0].to: is required"),
        (
            "{failover: [{from: a, to: b}], failoverPriority: [x, topology.istio.io/subzone]}",
            ".failoverPriority[1]: topology.istio.io/subzone and failover exclude each other",
        ),
        ("{failoverPriority: ['a b']}", '.failoverPriority[0]: "a b" is not a valid label key'),
        ("{failoverPriority: ['a=?']}", '.failoverPriority[0]: "?" is not a valid label value'),
        ("{enabled: 1}", ".enabled: must be true or false, not a whole number"),
        ("{distribute: {}}", ".distribute: must be a list, not a mapping"),
    ],
)  # fmt: skip
def test_refused(text: str, problem: str) -> None:
    assert problems(setting(text), "error") == [AT + problem]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{enabled: false}",
        "{enabled: true}",
        "{distribute: [{from: a/*, to: {a/b/c: 70, 'a/d/*': 20, b: 10}}, {from: b, to: {'*': 100}}]}",
        "{failover: [{from: a, to: b}, {from: b, to: a}]}",
        "{failoverPriority: [topology.kubernetes.io/region, version=v2, team]}",
        "{failover: [{from: a, to: b}], failoverPriority: [version]}",
    ],
)
def test_taken_without_a_word(text: str) -> None:
    assert problems(setting(text), "error") == problems(setting(text), "warning") == []


def test_failoverpriority_has_no_effect_beside_distribute() -> None:
    text = "{distribute: [{from: a, to: {a: 100}}], failoverPriority: [x]}"
    assert problems(setting(text), "error") == []
    assert problems(setting(text), "warning") == [
        f"{AT}.failoverPriority: has no effect beside distribute, as in Istio"
    ]


FAILOVER = "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}"
UNSEEN = "failover: has no effect: nothing finds out that an endpoint fails, as in Istio"


@pytest.mark.parametrize(
    ("policy", "subset", "warnings"),
    [
        (f"{{{FAILOVER}}}", "{}", [f"{AT}.{UNSEEN}"]),
        (f"{{{FAILOVER}, outlierDetection: {{}}}}", "{}", []),
        (f"{{{FAILOVER}, healthChecks: {{timeout: 1s, interval: 1s, "
         "tcpHealthCheck: {}}}", "{}", []),
        ("{loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}], enabled: false}}}", "{}", []),
        ("{loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}]}}}", "{}", []),
        # a subset has what the rule has at the top; a port has nothing of it
        ("{outlierDetection: {}}", f"{{{FAILOVER}}}", []),
        ("{}", f"{{{FAILOVER}}}", [
            f"spec.subsets[0].trafficPolicy.loadBalancer.localityLbSetting.{UNSEEN}"]),
        (f"{{outlierDetection: {{}}, portLevelSettings: [{{port: {{number: 80}}, {FAILOVER}}}]}}", "{}", [
            f"spec.trafficPolicy.portLevelSettings[0].loadBalancer.localityLbSetting.{UNSEEN}"]),
    ],
)  # fmt: skip
def test_failover_that_nothing_sets_off(policy: str, subset: str, warnings: list[str]) -> None:
    subsets = [{"name": "v1", "trafficPolicy": yaml.safe_load(subset)}]
    assert problems(policy, "error", subsets=subsets) == []
    assert problems(policy, "warning", subsets=subsets) == warnings


@pytest.mark.parametrize("kind", ["ServiceEntry", "WorkloadEntry"])
@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("us", ""),
        ("us/zone-1", ""),
        ("us-east1/us-east1-b/rack_7.x", ""),
        ("", "must not be empty"),
        ("us/", '"us/" is not region/zone/subzone'),
        ("/z", '"/z" is not region/zone/subzone'),
        ("a/b/c/d", '"a/b/c/d" is not region/zone/subzone'),
        ("us/*", '"*" is not a valid label value'),
        ("us west", '"us west" is not a valid label value'),
    ],
)
def test_a_place(kind: str, place: str, problem: str) -> None:
    spec = VALID[kind]()
    path = "endpoints[0].locality" if kind == "ServiceEntry" else "locality"
    put(spec, path, place)
    assert check(kind, spec) == ([f"spec.{path}: {problem}"] if problem else [])
