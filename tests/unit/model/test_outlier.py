"""DestinationRule outlierDetection: what is refused, what is warned of, and what a cluster is made of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh._core.shm.segment import Segment, SnapshotError
from fastmesh.compile.cells import CellMap
from fastmesh.compile.outlier import detect
from fastmesh.compile.snapshot import pack
from fastmesh.model.load import load_dicts
from helpers.irconf import cluster, config

AT = "spec.trafficPolicy.outlierDetection"


def rule(text: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "x"},
        "spec": {"host": "a.example", "trafficPolicy": {"outlierDetection": yaml.safe_load(text)}},
    }


def problems(text: str, severity: str) -> list[str]:
    found = load_dicts([rule(text)]).problems
    return [f"{p.path}: {p.message}" for p in found if p.severity == severity]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{interval: 0s}", ".interval: must be at least 1ms"),
        ("{baseEjectionTime: 0s}", ".baseEjectionTime: must be at least 1ms"),
        ("{maxEjectionPercent: 101}", ".maxEjectionPercent: must be 0 to 100, not 101"),
        ("{minHealthPercent: -1}", ".minHealthPercent: must be 0 to 100, not -1"),
        ("{successRate: {minimumHosts: 0}}", ".successRate.minimumHosts: must be 1 to 2147483647, not 0"),
        ("{successRate: {stdevFactor: 0}}", ".successRate.stdevFactor: must be 1 to 2147483647, not 0"),
        ("{failurePercentage: {threshold: 101}}", ".failurePercentage.threshold: must be 1 to 100, not 101"),
        (
            "{failurePercentage: {requestVolume: 0}}",
            ".failurePercentage.requestVolume: must be 1 to 2147483647, not 0",
        ),
        (
            '{consecutive5xxErrors: "5"}',
            ".consecutive5xxErrors: must be a whole number, not a string",
        ),
    ],
)
def test_refused(text: str, problem: str) -> None:
    assert problems(text, "error") == [AT + problem]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "{consecutiveErrors: 3}",
            ".consecutiveErrors: is deprecated by Istio and means consecutiveGatewayErrors",
        ),
        (
            "{consecutiveLocalOriginFailures: 3}",
            ".consecutiveLocalOriginFailures: has no effect without splitExternalLocalOriginErrors, "
            "as in Istio",
        ),
    ],
)
def test_warned_of(text: str, warning: str) -> None:
    assert problems(text, "error") == []
    assert problems(text, "warning") == [AT + warning]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("{}", {}),
        ("{consecutive5xxErrors: 0}", {"consecutive_5xx": 0}),
        ("{consecutiveErrors: 3}", {"consecutive_gateway": 3}),
        ("{consecutiveErrors: 3, consecutiveGatewayErrors: 4}", {"consecutive_gateway": 4}),
        ("{consecutiveLocalOriginFailures: 3}", {}),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3}",
            {"split": True, "consecutive_local": 3},
        ),
        ("{interval: 5s, baseEjectionTime: 1m}", {"interval_ms": 5000, "base_ms": 60_000}),
        ("{maxEjectionPercent: 0, minHealthPercent: 0}", {}),
        (
            "{successRate: {}, failurePercentage: {}}",
            {"success_rate": {}, "failure_percentage": {}},
        ),
        (
            "{successRate: {minimumHosts: 3, requestVolume: 20, stdevFactor: 1500}}",
            {"success_rate": {"hosts": 3, "volume": 20, "stdev_milli": 1500}},
        ),
        (
            "{failurePercentage: {threshold: 50, minimumHosts: 2, requestVolume: 10}}",
            {"failure_percentage": {"percent": 50, "hosts": 2, "volume": 10}},
        ),
        ("{maxEjectionPercent: 50, minHealthPercent: 30}", {"max_percent": 50, "min_health_percent": 30}),
    ],
)
def test_what_a_cluster_is_made_of_it(text: str, made: dict[str, Any]) -> None:
    loaded = load_dicts([rule(text)])
    (found,) = loaded.resources
    out: Any = {}
    detect(out, found.spec["trafficPolicy"]["outlierDetection"])
    assert out == {"outlier": made}


def test_without_one_a_cluster_has_none() -> None:
    out: Any = {}
    detect(out, None)
    assert out == {}


@pytest.mark.parametrize(
    ("outlier", "path"),
    [
        ({"interval_ms": 0}, "interval_ms"),
        ({"base_ms": 0}, "base_ms"),
        ({"base_ms": 5, "most_ms": 4}, "most_ms"),
        ({"max_percent": 101}, "max_percent"),
        ({"min_health_percent": 101}, "min_health_percent"),
        ({"success_rate": {"hosts": 0}}, "success_rate.hosts"),
        ({"success_rate": {"stdev_milli": 0}}, "success_rate.stdev_milli"),
        ({"failure_percentage": {"percent": 101}}, "failure_percentage.percent"),
        ({"failure_percentage": {"volume": 2**32}}, "failure_percentage.volume"),
    ],
)
def test_what_cannot_be_packed_is_refused_with_its_path(outlier: dict[str, int], path: str) -> None:
    segment = Segment.create(1)
    with pytest.raises(SnapshotError, match=rf"clusters\[0\]\.outlier\.{path}"):
        pack(config(clusters=[cluster("c", 1, outlier=outlier)]), CellMap(segment))
