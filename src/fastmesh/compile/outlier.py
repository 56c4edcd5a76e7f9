"""Outlier detection: what a DestinationRule says -> a cluster's dict form, and that -> a snapshot (compile).

Istio's defaults, and Envoy's for the longest ejection.
"""

from __future__ import annotations

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastmesh._core.shm.pack import Packer
    from fastmesh.model import ir

ON, SPLIT = 1, 2  # OF_* of shm/snapshot.pxd
# What an interval's rates are judged by: Envoy's defaults, in the order of SnapOutlier.
RATE = {"hosts": 5, "volume": 100, "stdev_milli": 1900}
PERCENTAGE = {"percent": 85, "hosts": 5, "volume": 50}
_SAID = {
    "success_rate": (
        "successRate",
        {"minimumHosts": "hosts", "requestVolume": "volume", "stdevFactor": "stdev_milli"},
    ),
    "failure_percentage": (
        "failurePercentage",
        {"threshold": "percent", "minimumHosts": "hosts", "requestVolume": "volume"},
    ),
}
CONSECUTIVE, INTERVAL_MS, BASE_MS, MOST_MS, MAX_PERCENT = 5, 10_000, 30_000, 300_000, 10


def detect(out: ir.Cluster, said: dict[str, Any] | None) -> None:
    """The part of a cluster that an outlierDetection makes; without one nothing is ejected."""
    if said is None:
        return
    gateway = said.get("consecutiveGatewayErrors", said.get("consecutiveErrors", 0))
    made: ir.OutlierDetection = {}
    if "consecutive5xxErrors" in said:
        made["consecutive_5xx"] = said["consecutive5xxErrors"]
    if gateway:
        made["consecutive_gateway"] = gateway
    if said.get("splitExternalLocalOriginErrors"):
        made["split"] = True
        if "consecutiveLocalOriginFailures" in said:
            made["consecutive_local"] = said["consecutiveLocalOriginFailures"]
    if "interval" in said:
        made["interval_ms"] = said["interval"]
    if "baseEjectionTime" in said:
        made["base_ms"] = said["baseEjectionTime"]
    if said.get("maxEjectionPercent"):  # 0 is how its API says nothing
        made["max_percent"] = said["maxEjectionPercent"]
    if said.get("minHealthPercent"):
        made["min_health_percent"] = said["minHealthPercent"]
    for part, (name, fields) in _SAID.items():
        if name in said:
            made[part] = {fields[k]: v for k, v in said[name].items()}  # type: ignore[literal-required]
    out["outlier"] = made


def pack_outlier(packer: Packer, index: int, cluster: ir.Cluster, path: str) -> None:
    from fastmesh.compile.packing import refuse, uint  # the control plane uses detect(), and has no _core

    made = cluster.get("outlier")
    if made is None:
        return
    path = f"{path}.outlier"
    split = made.get("split", False)
    base = uint(made.get("base_ms", BASE_MS), f"{path}.base_ms", least=1)
    most = uint(made.get("most_ms", max(MOST_MS, base)), f"{path}.most_ms", least=1)
    if most < base:
        raise refuse(f"{path}.most_ms", "less than base_ms")
    packer.cluster_outlier(
        index,
        (
            uint(made.get("consecutive_5xx", CONSECUTIVE), f"{path}.consecutive_5xx"),
            uint(made.get("consecutive_gateway", 0), f"{path}.consecutive_gateway"),
            uint(made.get("consecutive_local", CONSECUTIVE if split else 0), f"{path}.consecutive_local"),
            uint(made.get("interval_ms", INTERVAL_MS), f"{path}.interval_ms", least=1),
            base,
            most,
            uint(made.get("max_percent", MAX_PERCENT), f"{path}.max_percent", 100),
            ON | (SPLIT if split else 0),
            *rates(made.get("success_rate"), RATE, f"{path}.success_rate"),
            *rates(made.get("failure_percentage"), PERCENTAGE, f"{path}.failure_percentage"),
        ),
        uint(made.get("min_health_percent", 0), f"{path}.min_health_percent", 100),
    )


def rates(said: Mapping[str, Any] | None, defaults: dict[str, int], path: str) -> tuple[int, ...]:
    """The numbers of one way to judge an interval; all 0: it is off."""
    from fastmesh.compile.packing import uint

    if said is None:
        return (0,) * len(defaults)
    most = {"percent": 100}
    return tuple(
        uint(said.get(k, default), f"{path}.{k}", most.get(k, 0xFFFFFFFF), least=1)
        for k, default in defaults.items()
    )
