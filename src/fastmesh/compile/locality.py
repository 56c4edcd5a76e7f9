"""Localities: what a DestinationRule says of them -> a cluster's dict form; that, for a proxy at a place of
its own -> endpoints in levels; and these -> a snapshot (compile).

Istio's rules. What the control plane compiles is the same for every client, so it carries the endpoints'
places, and `arrange` sorts for one client. Plain dicts, no import: an agent uses this.
"""

from __future__ import annotations

TYPE_CHECKING = False  # of typing: see tables
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastmesh._core.shm.pack import Packer
    from fastmesh.model import ir

# Of the labels of Kubernetes and Istio that say where a workload is, the outermost first.
TOPOLOGY = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
MAX_LEVELS = 16  # as SNAP_MAX_LEVELS
DISTANCES = 5  # that _distance tells apart


def split(place: str) -> list[str]:
    """Region, zone, subzone; empty where not said."""
    return [*place.split("/"), "", "", ""][:3]


def place_labels(place: str) -> dict[str, str]:
    """A place as labels: as a workload tells it to the control plane."""
    return {name: part for name, part in zip(TOPOLOGY, split(place), strict=True) if part}


def labelled_place(labels: Mapping[str, str]) -> str:
    """The place that labels tell; empty: none."""
    parts = [labels.get(name, "") for name in TOPOLOGY]
    return "/".join(parts).rstrip("/") if parts[0] else ""


# -- what rules say ------------------------------------------------------------------------------------------


def settle(out: ir.Cluster, policy: Mapping[str, Any]) -> None:
    """The part of a cluster that decides about levels. As in Istio failover is on by default where there is
    outlier detection (or health checks), without which no level would ever be seen to fail."""
    said = policy.get("loadBalancer", {}).get("localityLbSetting", {})
    if not said.get("enabled", True):
        return
    if said.get("distribute"):
        out["locality"] = {
            "distribute": [[rule["from"], list(map(list, rule["to"].items()))] for rule in said["distribute"]]
        }
    elif "outlierDetection" in policy or "healthChecks" in policy:
        made: ir.Locality = {}
        if said.get("failover"):
            made["failover"] = {}
            for rule in said["failover"]:
                made["failover"].setdefault(rule["from"], rule["to"])
        if said.get("failoverPriority"):
            made["priority"] = list(said["failoverPriority"])
        out["locality"] = made


def locate(out: ir.Cluster, endpoint: ir.Endpoint, place: str, labels: Mapping[str, str]) -> None:
    """Say of an endpoint where it is, and what else the cluster's levels go by."""
    place = place or labelled_place(labels)
    if place:
        endpoint["locality"] = place
    keys = [label.partition("=")[0] for label in out.get("locality", {}).get("priority", ())]
    known = {**place_labels(place), **labels}
    if keys:
        endpoint["labels"] = {key: known[key] for key in keys if key in known}


# -- for one client ------------------------------------------------------------------------------------------


def arrange(cluster: ir.Cluster, place: str, labels: Mapping[str, str]) -> ir.Cluster:
    """The cluster as a client at this place, with these labels, uses it: endpoints with their level, nearest
    first; the cluster as it is where they are all one."""
    said = cluster.get("locality")
    if said is None:
        return cluster
    shares: list[int] = []
    if "distribute" in said:
        found = _distributed(cluster["endpoints"], place, said["distribute"])
        if found is None:
            return cluster
        levels, shares = found
    elif "priority" in said:
        own = {**place_labels(place), **labels}
        levels = [
            _mismatches(endpoint.get("labels", {}), own, said["priority"])
            for endpoint in cluster["endpoints"]
        ]
        if "failover" in said and place:
            # of those with as many labels the nearer ones first
            levels = [
                level * DISTANCES + _distance(endpoint.get("locality", ""), place, said["failover"])
                for level, endpoint in zip(levels, cluster["endpoints"], strict=True)
            ]
    elif place:
        failover = said.get("failover", {})
        levels = [
            _distance(endpoint.get("locality", ""), place, failover) for endpoint in cluster["endpoints"]
        ]
    else:
        return cluster
    used = sorted(set(levels) - {-1})
    # a cluster with shares has no more of them: what is farthest is one level
    dense = {level: min(i, MAX_LEVELS - 1) for i, level in enumerate(used)}
    placed = sorted(((dense[level], i) for i, level in enumerate(levels) if level >= 0))
    endpoints: list[ir.Endpoint] = []
    for level, i in placed:
        endpoint = cluster["endpoints"][i]
        endpoints.append({**endpoint, "level": level} if len(used) > 1 else endpoint)
    made: ir.Cluster = {**cluster, "endpoints": endpoints}
    if shares and len(used) > 1:
        made["shares"] = [shares[level] for level in used]
    return made


def _distance(theirs: str, own: str, failover: Mapping[str, str]) -> int:
    """0: the same place; 1: the same zone; 2: the same region; 3: another region, where that is the one to
    fail over to or none is named; 4: any other."""
    mine, other = split(own), split(theirs)
    if mine[0] == other[0]:
        return 2 if mine[1] != other[1] else 1 if mine[2] != other[2] else 0
    return 3 if failover.get(mine[0], other[0]) == other[0] else 4


def _mismatches(theirs: Mapping[str, str], own: Mapping[str, str], priority: list[str]) -> int:
    """How many labels, from the first that differs on: those before it count. `key=value` is for clients
    whose label has another value, or none."""
    for i, label in enumerate(priority):
        key, given, value = label.partition("=")
        if theirs.get(key, "") != (value if given else own.get(key, "")):
            return len(priority) - i
    return 0


def matches(place: str, rule: str) -> bool:
    """Whether a place is one of those that a rule names: `region`, `region/zone/*`, `*`."""
    for part, wanted in zip(split(place), split(rule), strict=True):
        if wanted == "*" or not wanted:
            return True
        if part != wanted:
            return False
    return True


def _distributed(
    endpoints: list[ir.Endpoint], place: str, rules: list[Any]
) -> tuple[list[int], list[int]] | None:
    """(level of each endpoint, -1: none, shares of the levels) by the first rule that is for this place; None
    without one. Endpoints at no place that the rule names get no requests, as in Istio."""
    for start, shares in rules:
        if matches(place, start):
            targets = [target for target, _ in shares]
            levels = [
                next((i for i, t in enumerate(targets) if matches(endpoint.get("locality", ""), t)), -1)
                for endpoint in endpoints
            ]
            return levels, [share for _, share in shares]
    return None


# -- into a snapshot -----------------------------------------------------------------------------------------


def pack_levels(packer: Packer, index: int, cluster: ir.Cluster, levels: list[int], path: str) -> None:
    """`levels`: those of the endpoints that were packed, in order. A level may have lost its endpoints (of no
    weight, or a name that is not resolved yet)."""
    from fastmesh.compile.balance import table_size
    from fastmesh.compile.packing import refuse, uint  # the control plane has no _core

    shares = cluster.get("shares", [])
    used = sorted(set(levels))
    if len(used) > MAX_LEVELS:
        raise refuse(f"{path}.endpoints", f"more than {MAX_LEVELS} levels")
    if used and shares and used[-1] >= len(shares):
        raise refuse(f"{path}.shares", "a level has none")
    if len(used) < 2:
        return
    parts = [(levels.count(i), uint(shares[i], f"{path}.shares[{i}]", 100, 1) if shares else 0) for i in used]
    if sum(share for _, share in parts) > 100:
        raise refuse(f"{path}.shares", "more than 100 percent")
    packer.cluster_levels(index, parts, table_size(cluster, path))
