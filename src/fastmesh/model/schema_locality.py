"""DestinationRule trafficPolicy.loadBalancer.localityLbSetting, field for field (networking.istio.io; API of
Istio 1.31), and the form of a locality: region/zone/subzone. Only the shape: what becomes of it is
compile/locality.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import Bool, Int, List, Map, Message, Str, clip, req
from fastmesh.model.problems import Reporter

MAX_TARGETS: Final = 16
"""Places that one `distribute` names: as many levels has a cluster in the packed config (SNAP_MAX_LEVELS)."""
MAX_PRIORITY: Final = 15
"""Labels of failoverPriority: each can make a level, and there is one more."""
TOPOLOGY: Final = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def locality(value: str, r: Reporter) -> None:
    """Of a workload. Parts are values of labels, too: that is how a sidecar tells the control plane."""
    parts = value.split("/")
    if len(parts) > 3 or not all(parts):
        r.add(f"{clip(value)} is not region/zone/subzone", "name a region, or a region and a zone, or all")
        return
    for part in parts:
        fmt.label_value(part, r)


def _rule_locality(value: str, r: Reporter) -> None:
    """As rules name them: the last part may be a star."""
    parts = value.split("/")
    if parts[-1] == "*":
        parts.pop()
    if "*" in "".join(parts):
        r.add(f"{clip(value)}: a star stands for the last part only")
    elif parts:
        locality("/".join(parts), r)
    if len(value.split("/")) > 3 and len(parts) <= 3:
        r.add(f"{clip(value)} is not region/zone/subzone")


def _covers(one: str, other: str) -> bool:
    """Whether every place of `other` is one of `one`, too."""
    mine = [part for part in one.split("/") if part != "*"]
    return other.split("/")[: len(mine)] == mine


def _overlap(places: list[str]) -> tuple[str, str] | None:
    for i, place in enumerate(places):
        for before in places[:i]:
            if _covers(before, place) or _covers(place, before):
                return place, before
    return None


def _distribute(d: dict[str, Any], r: Reporter) -> None:
    total = sum(d["to"].values())
    if total != 100:
        r.add(f"the weights add up to {total}, not to 100", at=("to",))
    found = _overlap(list(d["to"]))
    if found:
        r.add(f"overlaps with {found[1]}", at=("to", found[0]))


_DISTRIBUTE: Final = Message(
    "Distribute",
    {
        "from": req(Str(_rule_locality, empty=False)),
        "to": req(Map(Int(1, 100), _rule_locality, high=MAX_TARGETS)),
    },
    rule=_distribute,
)


def _region(value: str, r: Reporter) -> None:
    if "/" in value or "*" in value:
        r.add(f"{clip(value)} is not a region", "failover names regions only, without a star")
    else:
        fmt.label_value(value, r)


def _failover(d: dict[str, Any], r: Reporter) -> None:
    if d["from"] == d["to"]:
        r.add("must be another region than from", at=("to",))


_FAILOVER: Final = Message(
    "Failover",
    {"from": req(Str(_region, empty=False)), "to": req(Str(_region, empty=False))},
    rule=_failover,
)


def _priority(value: str, r: Reporter) -> None:
    key, _, wanted = value.partition("=")
    fmt.label_key(key, r)
    fmt.label_value(wanted, r)


def _setting(d: dict[str, Any], r: Reporter) -> None:
    if d.get("distribute") and d.get("failover"):
        r.add("distribute and failover exclude each other", at=("failover",))
    if d.get("distribute") and d.get("failoverPriority"):
        r.warn("has no effect beside distribute, as in Istio", "remove one", at=("failoverPriority",))
    for i, label in enumerate(d.get("failoverPriority", ()) if d.get("failover") else ()):
        if label.partition("=")[0] in TOPOLOGY:
            r.add(f"{label} and failover exclude each other", at=("failoverPriority", i))
    found = _overlap([rule["from"] for rule in d.get("distribute", ())])
    if found:
        i = [rule["from"] for rule in d["distribute"]].index(found[0])
        r.add(f"{found[0]} overlaps with {found[1]}", at=("distribute", i, "from"))


LOCALITY_LB: Final = Message(
    "LocalityLoadBalancerSetting",
    {
        "distribute": List(_DISTRIBUTE, high=256),
        "failover": List(_FAILOVER, high=256),
        "failoverPriority": List(Str(_priority, empty=False), high=MAX_PRIORITY),
        "enabled": Bool(),
    },
    rule=_setting,
)


def unseen_failover(d: dict[str, Any], r: Reporter) -> None:
    """Of a whole DestinationRule: failover is of no use where nothing finds out that an endpoint fails."""
    top = d.get("trafficPolicy", {})
    places: list[tuple[tuple[str | int, ...], dict[str, Any], dict[str, Any]]] = [
        (("trafficPolicy",), top, {})
    ]
    for i, subset in enumerate(d.get("subsets", ())):
        places.append((("subsets", i, "trafficPolicy"), subset.get("trafficPolicy", {}), top))
    for path, policy, above in places:
        _unseen(policy, above, path, r)
        for i, own in enumerate(policy.get("portLevelSettings", ())):
            _unseen(own, {}, (*path, "portLevelSettings", i), r)


def _unseen(policy: dict[str, Any], above: dict[str, Any], path: tuple[str | int, ...], r: Reporter) -> None:
    said = policy.get("loadBalancer", {}).get("localityLbSetting", {})
    if any(k in level for level in (policy, above) for k in ("outlierDetection", "healthChecks")):
        return
    for k in ("failover", "failoverPriority"):
        if said.get(k) and said.get("enabled", True) and not said.get("distribute"):
            r.warn(
                "has no effect: nothing finds out that an endpoint fails, as in Istio",
                "give outlierDetection or healthChecks",
                at=(*path, "loadBalancer", "localityLbSetting", k),
            )
