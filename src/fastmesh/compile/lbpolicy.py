"""trafficPolicy.loadBalancer of a DestinationRule -> the IR's keys of a cluster (compile)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastmesh.model import ir

DEFAULT_LB: Final = "LEAST_REQUEST"


def balance(out: ir.Cluster, settings: dict[str, Any]) -> None:
    """What a cluster's loadBalancer block says, into the cluster."""
    hashing = settings.get("consistentHash")
    if hashing is not None:
        _hash(out, hashing)
        return
    lb = settings.get("simple", DEFAULT_LB)
    if lb == "PASSTHROUGH":
        out["original_dst"] = True
        return
    if lb != DEFAULT_LB:
        out["lb"] = lb
    if lb != "RANDOM":
        _warm(out, settings)


def _hash(out: ir.Cluster, hashing: dict[str, Any]) -> None:
    cookie = hashing.get("httpCookie")
    made: ir.Hash
    if cookie is not None:
        made = {"on": "cookie", "name": cookie["name"]}
        if "ttl" in cookie:
            made["ttl_s"] = cookie["ttl"] // 1000  # as Envoy: below a second it is a session's
        if cookie.get("path"):
            made["path"] = cookie["path"]
    elif "httpHeaderName" in hashing:
        made = {"on": "header", "name": hashing["httpHeaderName"]}
    elif "httpQueryParameterName" in hashing:
        made = {"on": "query", "name": hashing["httpQueryParameterName"]}
    elif hashing["useSourceIp"]:
        made = {"on": "source"}
    else:
        out["lb"] = "RANDOM"  # useSourceIp: false leaves no key, as in Istio, and Envoy then picks at random
        return
    maglev = hashing.get("maglev")
    if maglev is not None:
        size = maglev.get("tableSize", 0)
    else:
        size = hashing.get("ringHash", hashing).get("minimumRingSize", 0)  # 0: the default, as in Istio
    if size:
        made["size"] = size
    out["lb"] = "RING_HASH" if maglev is None else "MAGLEV"
    out["hash"] = made


def _warm(out: ir.Cluster, settings: dict[str, Any]) -> None:
    warmup = settings.get("warmup")
    if warmup is None:
        if "warmupDurationSecs" in settings:
            out["warm"] = {"ms": settings["warmupDurationSecs"]}
        return
    made: ir.Warm = {"ms": warmup["duration"]}
    if "minimumPercent" in warmup:
        made["least_percent"] = round(warmup["minimumPercent"])
    if "aggression" in warmup:
        made["aggression_centi"] = round(warmup["aggression"] * 100)
    out["warm"] = made
