"""Localities: from a DestinationRule and the places of endpoints to the levels of a cluster, for a client
at a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fastmesh.agent.assemble import assemble
from fastmesh.compile.edge import compile_edge
from fastmesh.compile.locality import MAX_LEVELS, arrange, labelled_place, matches, place_labels
from fastmesh.compile.services import World, compile_service
from fastmesh.model.load import load_dicts
from helpers.irconf import config as ir_config
from helpers.irconf import packed
from unit.compile.test_clusters import HOST, entry, gateway, obj, route
from unit.compile.test_services import REVIEWS, net, resources, workload

SEEN = "outlierDetection: {}"
PLACES = ["eu/1/a", "eu/1/b", "eu/2/a", "us/1/a", "asia/1/a", ""]
Levels = dict[int, int] | None


def rule(setting: str, more: str = SEEN) -> dict[str, Any]:
    text = "{" + ", ".join(filter(None, [more, f"loadBalancer: {{localityLbSetting: {setting}}}"])) + "}"
    return obj("DestinationRule", {"host": HOST, "trafficPolicy": yaml.safe_load(text)})


def cluster(place: str, *docs: dict[str, Any], labels: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """An edge's cluster at a place; endpoint number i (its last octet) is at PLACES[i]."""
    ends = [
        {
            "address": f"10.0.0.{i}",
            **({"locality": p} if p else {}),
            **({"labels": labels[i]} if labels else {}),
        }
        for i, p in enumerate(PLACES)
    ]
    docs = (gateway(), route(), entry(endpoints=ends), *docs)
    found = compile_edge(load_dicts(list(docs)).ok(), Path("/nowhere"), locality=place)["clusters"][0]
    packed(ir_config(clusters=[found]))  # the data plane takes it, too
    made: dict[str, Any] = dict(found)
    return made


def levels(made: dict[str, Any]) -> dict[int, int]:
    """Endpoint -> level, in the cluster's order."""
    return {int(e["address"].rpartition(".")[2]): e.get("level", 0) for e in made["endpoints"]}


ALL_ONE = dict.fromkeys(range(6), 0)
NEAREST = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3}


@pytest.mark.parametrize(
    ("setting", "more", "place", "expected"),
    [
        ("{}", SEEN, "eu/1/a", NEAREST),
        ("{}", SEEN, "eu/1", {0: 1, 1: 1, 2: 2, 3: 3, 4: 3, 5: 3}),
        ("{}", SEEN, "us/1/a", {3: 0, 0: 1, 1: 1, 2: 1, 4: 1, 5: 1}),
        ("{}", SEEN, "mars", ALL_ONE),
        ("{}", SEEN, "", ALL_ONE),
        ("{enabled: true}", SEEN, "eu/1/a", NEAREST),
        ("{enabled: false}", SEEN, "eu/1/a", ALL_ONE),
        # nothing finds out that an endpoint fails
        ("{}", "", "eu/1/a", ALL_ONE),
        ("{failover: [{from: eu, to: us}]}", "", "eu/1/a", ALL_ONE),
        ("{}", "healthChecks: {tcpHealthCheck: {}, timeout: 1s, interval: 1s}", "eu/1/a", NEAREST),
        # the region that stands in comes before all others
        ("{failover: [{from: eu, to: us}]}", SEEN, "eu/1/a", {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4}),
        ("{failover: [{from: us, to: eu}]}", SEEN, "eu/1/a", NEAREST),
        ("{failover: [{from: us, to: asia}]}", SEEN, "us/1/a", {3: 0, 4: 1, 0: 2, 1: 2, 2: 2, 5: 2}),
    ],
)  # fmt: skip
def test_by_distance(setting: str, more: str, place: str, expected: dict[int, int]) -> None:
    made = cluster(place, rule(setting, more))
    # empty levels are left out
    dense = {level: i for i, level in enumerate(sorted(set(expected.values())))}
    assert levels(made) == {end: dense[level] for end, level in expected.items()}
    assert list(levels(made)) == list(expected) and "shares" not in made


def test_without_a_rule_all_are_one_level() -> None:
    assert levels(cluster("eu/1/a")) == ALL_ONE


@pytest.mark.parametrize(
    ("place", "expected", "shares"),
    [
        ("eu/1/a", {0: 0, 1: 0, 2: 1, 3: 2}, [70, 20, 10]),
        ("eu/9", {0: 0, 1: 0, 2: 1, 3: 2}, [70, 20, 10]),
        ("us/1/a", {4: 0}, None),
        ("asia/1/a", ALL_ONE, None),  # no rule is for it
        ("", ALL_ONE, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", ["", SEEN])
def test_distribute(more: str, place: str, expected: dict[int, int], shares: list[int] | None) -> None:
    setting = "{distribute: [{from: eu/*, to: {eu/1/*: 70, eu/2: 20, us: 10}}, {from: us, to: {asia: 100}}]}"
    made = cluster(place, rule(setting, more))
    assert levels(made) == expected and made.get("shares") == shares


def test_a_place_of_distribute_that_no_endpoint_is_at_gets_nothing() -> None:
    made = cluster("eu/1/a", rule("{distribute: [{from: eu, to: {moon: 50, us: 30, asia: 20}}]}"))
    assert levels(made) == {3: 0, 4: 1} and made["shares"] == [30, 20]


def test_failover_priority_goes_by_the_first_labels() -> None:
    labels = [
        {"team": "x", "version": "v1"},
        {"team": "x", "version": "v2"},
        {"version": "v1"},
        {},
        {},
        {"team": "x"},
    ]
    setting = "{failoverPriority: [team=x, version=v1]}"
    assert levels(cluster("eu/1/a", rule(setting), labels=labels)) == {0: 0, 1: 1, 5: 1, 2: 2, 3: 2, 4: 2}
    # labels that say where: the proxy's own place
    setting = "{failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]}"
    assert levels(cluster("eu/1/x", rule(setting))) == {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2}
    # and among those of one level by distance, with failover beside it
    setting = "{failoverPriority: [team=x], failover: [{from: eu, to: us}]}"
    made = cluster("eu/1/a", rule(setting), labels=labels)
    assert levels(made) == {0: 0, 1: 1, 5: 2, 2: 3, 3: 4, 4: 5}


def test_more_levels_than_a_snapshot_has_become_one_at_the_end() -> None:
    keys = [f"k{i}" for i in range(15)]
    ends: list[Any] = []
    for n in range(16):
        for k, place in enumerate(["eu", "us"]):
            labels = dict.fromkeys(keys[:n], "x")
            ends.append({"address": f"10.0.{k}.{n}", "port": 80, "locality": place, "labels": labels})
    made: Any = {
        "name": "c",
        "endpoints": ends,
        "locality": {"priority": [f"{k}=x" for k in keys], "failover": {}},
    }
    found: Any = arrange(made, "eu", {})
    assert [e.get("level") for e in found["endpoints"]] == [min(i, MAX_LEVELS - 1) for i in range(32)]


@pytest.mark.parametrize(
    ("place", "pattern", "expected"),
    [
        ("eu/1/a", "eu", True), ("eu/1/a", "eu/*", True), ("eu/1/a", "*", True), ("eu/1/a", "eu/1/a", True),
        ("eu/1/a", "eu/1/*", True), ("eu/1/a", "eu/2", False), ("eu/1", "eu/1/a", False), ("", "*", True),
        ("", "eu", False), ("us/1/a", "eu/*", False),
    ],
)  # fmt: skip
def test_matches(place: str, pattern: str, expected: bool) -> None:
    assert matches(place, pattern) is expected


@pytest.mark.parametrize("place", ["", "eu", "eu/1", "eu/1/a"])
def test_a_place_as_labels_and_back(place: str) -> None:
    assert labelled_place(place_labels(place)) == place


# -- a mesh ----------------------------------------------------------------------------------------------


def sidecar_cluster(place: str, text: str, *workloads: Any) -> dict[str, Any]:
    fragment = compile_service(World(resources(text), workloads), REVIEWS)
    assert fragment is not None
    spec: Any = {
        "service": "web", "namespace": "default", "version": "v1", "app": ("127.0.0.1", 9080),
        "app_protocol": "", "inbound": ("0.0.0.0", 15006), "outbound": ("127.0.0.1", 15001),
        "address": "", "locality": place,
    }  # fmt: skip
    made, problems = assemble("n", spec, "strict", {"t": fragment}, [])
    assert not problems
    return dict(next(c for c in made["clusters"] if c["name"].startswith("outbound|9080||")))


def at(place: str, number: int, **labels: str) -> Any:
    return workload(
        name=f"r{number}",
        address=f"10.0.0.{number}",
        labels={"version": "v1", **place_labels(place), **labels},
    )


RULE = net("DestinationRule", "{host: reviews, trafficPolicy: {outlierDetection: {}}}")


def test_a_sidecar_sorts_for_its_own_place() -> None:
    workloads = [at("eu/1", 1), at("us/1", 2), at("eu/2", 3), at("", 4)]
    assert levels(sidecar_cluster("eu/1", RULE, *workloads)) == {1: 0, 3: 1, 2: 2, 4: 2}
    assert levels(sidecar_cluster("us/1", RULE, *workloads)) == {2: 0, 1: 1, 3: 1, 4: 1}
    assert levels(sidecar_cluster("", RULE, *workloads)) == {1: 0, 2: 0, 3: 0, 4: 0}
    assert levels(sidecar_cluster("eu/1", "", *workloads)) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_a_sidecars_own_labels_count_for_failover_priority() -> None:
    text = RULE.replace(
        "outlierDetection: {}",
        "outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version]}}",
    )
    made = sidecar_cluster("", text, at("", 1, version="v2"), at("", 2), at("", 3, version="v2"))
    assert levels(made) == {2: 0, 1: 1, 3: 1}


def test_workload_entries_are_at_places() -> None:
    text = RULE.replace("host: reviews", f"host: {HOST}")
    ports = "[{number: 80, name: http}]"
    chosen = "resolution: STATIC, workloadSelector: {labels: {a: b}}"
    text += net("ServiceEntry", f"{{hosts: [{HOST}], ports: {ports}, {chosen}}}")
    for i, place in enumerate(["us", "eu"]):
        spec = f"{{address: 10.0.0.{i}, labels: {{a: b}}, locality: {place}}}"
        text += net("WorkloadEntry", spec, f"w{i}")
    fragment = compile_service(World(resources(text)), HOST)
    assert fragment is not None
    assert [(e["address"], e.get("locality")) for e in fragment["clusters"][0]["endpoints"]] == [
        ("10.0.0.0", "us"), ("10.0.0.1", "eu"),
    ]  # fmt: skip
    assert fragment["clusters"][0]["locality"] == {}
