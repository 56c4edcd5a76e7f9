"""DestinationRule trafficPolicy.loadBalancer, field for field (networking.istio.io; API of Istio 1.31), and
one algorithm of our own. Only the shape: what becomes of it is compile/lbpolicy.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import Bool, Duration, Enum, Field, Int, Message, Number, Str, clip, later, req
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_locality import LOCALITY_LB

MAX_TABLE: Final = 1_048_576
"""Points of a ring or slots of Maglev's table: every worker looks them up, and each costs up to 8 bytes
(Envoy takes up to 8,388,608 and 5,000,011)."""
MAX_COOKIE_TTL_MS: Final = 2**32 - 1


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _cookie_name(value: str, r: Reporter) -> None:
    if not fmt.is_token(value):
        r.add(f"{clip(value)} is not the name of a cookie")


def _cookie_path(value: str, r: Reporter) -> None:
    if any(c in value for c in "; \t") or not value.isprintable() or not value.isascii():
        r.add("must not have a semicolon, white space or anything outside ASCII in it")


HTTP_COOKIE: Final = Message(
    "HTTPCookie",
    {
        "name": req(Str(_cookie_name, empty=False)),
        "path": Str(_cookie_path),
        "ttl": Duration(zero=True, high=MAX_COOKIE_TTL_MS),
        "attributes": later(),
    },
)


def _maglev(d: dict[str, Any], r: Reporter) -> None:
    if "tableSize" in d and not _prime(d["tableSize"]):
        r.add("must be a prime", "65537 is the default", at=("tableSize",))


def _consistent_hash(d: dict[str, Any], r: Reporter) -> None:
    if not any(k in d for k in HASH_KEYS):
        r.add(f"needs one of {', '.join(HASH_KEYS)}")
    if "minimumRingSize" in d:
        r.warn("is deprecated by Istio", "give ringHash.minimumRingSize", at=("minimumRingSize",))
        if "ringHash" in d or "maglev" in d:
            other = "ringHash" if "ringHash" in d else "maglev"
            r.warn(f"has no effect beside {other}, as in Istio", "remove it", at=("minimumRingSize",))


HASH_KEYS: Final = ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")

CONSISTENT_HASH: Final = Message(
    "ConsistentHashLB",
    {
        "httpHeaderName": Str(fmt.header_name, empty=False),
        "httpCookie": HTTP_COOKIE,
        "useSourceIp": Bool(),
        "httpQueryParameterName": Str(empty=False),
        "ringHash": Message("RingHash", {"minimumRingSize": Int(0, MAX_TABLE)}),
        "maglev": Message("MagLev", {"tableSize": Int(1, MAX_TABLE)}, rule=_maglev),
        "minimumRingSize": Int(0, MAX_TABLE),
    },
    one_of=(HASH_KEYS, ("ringHash", "maglev")),
    rule=_consistent_hash,
)

LATER: Final[dict[str, Field]] = {
    "zoneAwareLbSetting": later(),
}

WARMUP: Final = Message(
    "WarmupConfiguration",
    {
        "duration": req(Duration()),
        "minimumPercent": Number(0, 100),
        "aggression": Number(1, 100),
    },
)


def _load_balancer(d: dict[str, Any], r: Reporter) -> None:
    if "warmupDurationSecs" in d:
        r.warn("is deprecated by Istio", "give warmup.duration", at=("warmupDurationSecs",))
        if "warmup" in d:
            r.warn("has no effect beside warmup, as in Istio", "remove it", at=("warmupDurationSecs",))
    algorithm = "consistentHash" if "consistentHash" in d else d.get("simple", "")
    if algorithm == "PASSTHROUGH":
        for k in ("localityLbSetting", "warmup", "warmupDurationSecs"):
            if k in d:
                r.add("contradicts PASSTHROUGH, which chooses among no endpoints", at=(k,))
    for k in ("warmup", "warmupDurationSecs"):
        if k in d and algorithm in ("consistentHash", "RANDOM"):
            r.warn(f"has no effect with {algorithm}, as in Istio", "remove it", at=(k,))


LOAD_BALANCER: Final = Message(
    "LoadBalancerSettings",
    {
        "simple": Enum(
            {
                "UNSPECIFIED": "LEAST_REQUEST",
                "LEAST_CONN": "LEAST_REQUEST",
                "RANDOM": "RANDOM",
                "ROUND_ROBIN": "ROUND_ROBIN",
                "LEAST_REQUEST": "LEAST_REQUEST",
                "PEAK_EWMA": "PEAK_EWMA",  # not Istio's
                "PASSTHROUGH": "PASSTHROUGH",
            },
            warnings={"LEAST_CONN": "LEAST_CONN is deprecated by Istio and means LEAST_REQUEST"},
        ),
        "consistentHash": CONSISTENT_HASH,
        "localityLbSetting": LOCALITY_LB,
        **LATER,
        "warmupDurationSecs": Duration(),
        "warmup": WARMUP,
    },
    one_of=(("simple", "consistentHash"),),
    rule=_load_balancer,
)
