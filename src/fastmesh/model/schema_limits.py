"""LocalRateLimit, a resource of our own (networking.fastmesh.io): rate limits at the server's sidecar, where
callers have identities (model). Linkerd has it as HTTPLocalRateLimitPolicy. Only the shape: what becomes of
it is compile/inbound.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model.fields import List, Message, Str, clip, req
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_destinationrule import LABELS
from fastmesh.model.schema_ratelimit import TOKEN_BUCKET, at_odds, check_buckets
from fastmesh.model.schema_virtualservice import HTTP_MATCH

MAX_NAMED: Final = 64
"""Callers that the overrides of a rule name: each is compared with (SNAP_MAX_LIMITS)."""
SCHEME: Final = "spiffe://"
NOT_INBOUND: Final = {
    "gateways": "a sidecar's inbound side has none",
    "port": "a sidecar's inbound side has one",
    "sourceLabels": "callers are told apart by their identities",
    "sourceNamespace": "callers are told apart by their identities",
}


def spiffe_id(principal: str) -> str:
    """Istio's policies write a principal without the scheme."""
    return principal if principal.startswith(SCHEME) else SCHEME + principal


def _principal(value: str, r: Reporter) -> None:
    domain, slash, path = spiffe_id(value)[len(SCHEME) :].partition("/")
    if not domain or not slash or not path or not value.isprintable() or " " in value or len(value) > 247:
        r.add(
            f"{clip(value)} is not the identity of a workload",
            "spiffe://cluster.local/ns/default/sa/web, or the same without spiffe://",
        )


def _inbound_match(d: dict[str, Any], r: Reporter) -> None:
    for key, why in NOT_INBOUND.items():
        if key in d:
            r.add("has no meaning here", why, at=(key,))


def _limit_rule(d: dict[str, Any], r: Reporter) -> None:
    for i, m in enumerate(d.get("match", ())):
        r.path += ["match", i]
        _inbound_match(m, r)
        del r.path[-2:]
    overrides = d.get("overrides", ())
    if "tokenBucket" in d or "perIdentity" in d:
        check_buckets(d, r)
    elif not overrides and not d.get("match"):
        r.add(
            "needs tokenBucket, perIdentity or overrides",
            "a rule with a match and nothing else lets pass what it matches",
        )
    seen: set[str] = set()
    for i, override in enumerate(overrides):
        for k, principal in enumerate(override["identities"]):
            known = spiffe_id(principal)
            if known in seen:
                r.add("is named twice in this rule", at=("overrides", i, "identities", k))
            seen.add(known)
        if "tokenBucket" in d and at_odds(d["tokenBucket"], override["tokenBucket"]):
            r.add(
                "allows one caller more than the rule's tokenBucket allows all together",
                at=("overrides", i, "tokenBucket"),
            )
    if len(seen) > MAX_NAMED:
        r.add(f"names more than {MAX_NAMED} callers", at=("overrides",))


LIMIT_RULE: Final = Message(
    "LocalRateLimitRule",
    {
        "name": Str(),
        "match": List(HTTP_MATCH),
        "tokenBucket": TOKEN_BUCKET,
        "perIdentity": TOKEN_BUCKET,
        "overrides": List(
            Message(
                "LocalRateLimitOverride",
                {"identities": req(List(Str(_principal), low=1)), "tokenBucket": req(TOKEN_BUCKET)},
            )
        ),
    },
    rule=_limit_rule,
)
LOCAL_RATE_LIMIT_RESOURCE: Final = Message(
    "LocalRateLimit",
    {
        "selector": Message("WorkloadSelector", {"matchLabels": LABELS}),
        "rules": req(List(LIMIT_RULE, low=1, high=256)),
    },
)
