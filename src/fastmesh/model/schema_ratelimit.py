"""Local rate limits (model), a language of our own: token buckets as Envoy's TokenBucket, for a rule and for
each of its callers. Only the shape: what becomes of it is compile/ratelimit.py's."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model.fields import Duration, Int, Message, req
from fastmesh.model.problems import Reporter

MAX_TOKENS: Final = 1_000_000_000
MIN_INTERVAL_MS: Final = 50
"""Envoy's: what is shorter than this cannot be told from a steady flow."""
MAX_RATE: Final = 1_000_000
"""Tokens a second: as SNAP_MAX_RATE."""
MAX_REFILL_MS: Final = 365 * 86_400_000
"""How long an empty bucket may take to be full again: as SNAP_MAX_REFILL_S."""


def rate(bucket: dict[str, Any]) -> tuple[int, int]:
    """What a bucket gains: tokens, in so many milliseconds."""
    return bucket.get("tokensPerFill", bucket["maxTokens"]), bucket["fillInterval"]


def _bucket(d: dict[str, Any], r: Reporter) -> None:
    if d["fillInterval"] < MIN_INTERVAL_MS:
        r.add(f"must be at least {MIN_INTERVAL_MS}ms (as in Envoy)", at=("fillInterval",))
        return
    fill, ms = rate(d)
    if fill * 1000 > MAX_RATE * ms:
        r.add(f"fills faster than {MAX_RATE} tokens a second", "give fewer tokens or a longer fillInterval")
    elif d["maxTokens"] * ms > MAX_REFILL_MS * fill:
        r.add("takes more than a year to be full again", "give more tokensPerFill or fewer maxTokens")


TOKEN_BUCKET: Final = Message(
    "TokenBucket",
    {
        "maxTokens": req(Int(1, MAX_TOKENS)),
        "tokensPerFill": Int(1, MAX_TOKENS),
        "fillInterval": req(Duration()),
    },
    rule=_bucket,
)


def at_odds(all_: dict[str, Any], each: dict[str, Any]) -> bool:
    """Whether one caller may do more than all may together, at once and over time: its limit would never be
    met."""
    (fill, ms), (each_fill, each_ms) = rate(all_), rate(each)
    faster = each_fill * ms - fill * each_ms
    more = each["maxTokens"] - all_["maxTokens"]
    return faster >= 0 and more >= 0 and faster + more > 0


def check_buckets(d: dict[str, Any], r: Reporter) -> None:
    """Of what has a tokenBucket, a perIdentity, or both."""
    if "tokenBucket" not in d and "perIdentity" not in d:
        r.add("needs tokenBucket, perIdentity or both", "leave it out for no limit")
    elif "tokenBucket" in d and "perIdentity" in d and at_odds(d["tokenBucket"], d["perIdentity"]):
        r.add(
            "allows one caller more than tokenBucket allows all together",
            "give it less, or remove it",
            at=("perIdentity",),
        )


LOCAL_RATE_LIMIT: Final = Message(
    "HTTPLocalRateLimit",
    {"tokenBucket": TOKEN_BUCKET, "perIdentity": TOKEN_BUCKET},
    rule=check_buckets,
)
