"""localRateLimit: what is refused, and what becomes of a rule's."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh._core.shm.segment import SnapshotError
from fastmesh.compile.ratelimit import limits_of
from fastmesh.compile.routes import compile_routes
from fastmesh.model.load import load_dicts
from helpers.irconf import config, packed, route, vhost

AT = "spec.http[0].localRateLimit"
HOUR = 3_600_000


def service(*rules: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "x"},
        "spec": {"hosts": ["a.example"], "http": [yaml.safe_load(rule) for rule in rules]},
    }


def rule(limit: str, action: str = "route: [{destination: {host: a}}]") -> str:
    return f"{{{action}, localRateLimit: {limit}}}"


def problems(text: str) -> list[str]:
    return [f"{p.path}: {p.message}" for p in load_dicts([service(rule(text))]).problems]


BUCKET = "{maxTokens: 10, fillInterval: 1s}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", ": needs tokenBucket, perIdentity or both"),
        ("{tokenBucket: {}}", ".tokenBucket.maxTokens: is required"),
        ("{tokenBucket: {maxTokens: 1}}", ".tokenBucket.fillInterval: is required"),
        (
            "{tokenBucket: {maxTokens: 0, fillInterval: 1s}}",
            ".tokenBucket.maxTokens: must be 1 to 1000000000, not 0",
        ),
        (
            "{perIdentity: {maxTokens: 5, tokensPerFill: 0, fillInterval: 1s}}",
            ".perIdentity.tokensPerFill: must be 1 to 1000000000, not 0",
        ),
        (
            "{tokenBucket: {maxTokens: 5, fillInterval: 49ms}}",
            ".tokenBucket.fillInterval: must be at least 50ms (as in Envoy)",
        ),
        (
            "{tokenBucket: {maxTokens: 1000001, fillInterval: 1s}}",
            ".tokenBucket: fills faster than 1000000 tokens a second",
        ),
        (
            "{tokenBucket: {maxTokens: 1000, tokensPerFill: 1, fillInterval: 10h}}",
            ".tokenBucket: takes more than a year to be full again",
        ),
        (
            f"{{tokenBucket: {BUCKET}, perIdentity: {{maxTokens: 20, fillInterval: 2s}}}}",
            ".perIdentity: allows one caller more than tokenBucket allows all together",
        ),
        (
            f"{{tokenBucket: {BUCKET}, perIdentity: {{maxTokens: 10, fillInterval: 999ms}}}}",
            ".perIdentity: allows one caller more than tokenBucket allows all together",
        ),
        ("{tokenBuckets: {}}", ".tokenBuckets: unknown field of HTTPLocalRateLimit"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    assert problems(text)[0] == AT + problem


@pytest.mark.parametrize(
    "text",
    [
        f"{{tokenBucket: {BUCKET}}}",
        f"{{perIdentity: {BUCKET}}}",
        f"{{tokenBucket: {BUCKET}, perIdentity: {BUCKET}}}",
        # more at once, less over time
        f"{{tokenBucket: {BUCKET}, perIdentity: {{maxTokens: 20, fillInterval: 1h}}}}",
        "{tokenBucket: {maxTokens: 1, fillInterval: 50ms}}",
        "{tokenBucket: {maxTokens: 50000, fillInterval: 50ms}}",
        "{tokenBucket: {maxTokens: 10, tokensPerFill: 1000, fillInterval: 1s}}",
    ],
)
@pytest.mark.parametrize(
    "action", ["route: [{destination: {host: a}}]", "redirect: {uri: /x}", "directResponse: {status: 200}"]
)
def test_taken_with_every_action(text: str, action: str) -> None:
    assert not [p for p in load_dicts([service(rule(text, action))]).problems if p.severity == "error"]


def test_tokens_of_a_fill_are_all_unless_said() -> None:
    said = {"tokenBucket": {"maxTokens": 10, "fillInterval": HOUR}}
    made = {"owner": "o", "most": 10, "fill": 10, "fill_ms": HOUR, "per": "route"}
    assert limits_of(said, "o") == [made]
    said["tokenBucket"]["tokensPerFill"] = 2
    assert limits_of(said, "o") == [{**made, "fill": 2}]


def routes_of(*rules: str) -> list[Any]:
    loaded = load_dicts([service(*rules)])
    (vs,) = loaded.resources
    return compile_routes(vs, "mesh", 80, lambda d, namespace, port: "c")


def test_callers_come_first_and_all_matches_of_a_rule_share() -> None:
    limit = f"{{tokenBucket: {BUCKET}, perIdentity: {{maxTokens: 2, fillInterval: 1s}}}}"
    both = "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: a}}]"
    first, second = routes_of(rule(limit, both))
    assert [made["per"] for made in first["limits"]] == ["identity", "route"]
    assert first["limits"] == second["limits"]


def owner(made: Any) -> str:
    found: str = made["limits"][0]["owner"]
    return found


def test_a_rule_that_is_named_keeps_its_buckets_when_others_come_before_it() -> None:
    limit = f"{{tokenBucket: {BUCKET}}}"
    named = rule(limit, "name: n, match: [{uri: {prefix: /n}}], route: [{destination: {host: a}}]")
    other = rule(limit, "match: [{uri: {prefix: /o}}], route: [{destination: {host: a}}]")
    again = rule(limit, "name: n, match: [{uri: {prefix: /m}}], route: [{destination: {host: a}}]")
    (alone,) = routes_of(named)
    made = routes_of(other, named, other, again)
    assert owner(made[1]) == owner(alone)
    assert len({owner(r) for r in made}) == 4


LIMIT = {"owner": "o", "most": 1, "fill": 1, "fill_ms": 50, "per": "route"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"most": 0}, "limits[0].most: 0 is not a whole number from 1"),
        ({"fill": -1}, "limits[0].fill: -1 is not a whole number from 1"),
        ({"fill_ms": 2**32}, "limits[0].fill_ms: 4294967296 is not a whole number from 1"),
        ({"per": "moon"}, "limits[0].per: 'moon' is none of route, identity, named"),
        ({"per": "named"}, "limits[0].who: goes with per: named, and it with that"),
        ({"who": "spiffe://a/b"}, "limits[0].who: goes with per: named, and it with that"),
        ({"fill": 50_001}, "filled too fast or too slowly"),
        ({"most": 2**32 - 1, "fill_ms": 2**32 - 1}, "filled too fast or too slowly"),
    ],
)
def test_what_cannot_be_packed(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SnapshotError, match="limits") as failed:
        publishable({**LIMIT, **change})
    assert problem in str(failed.value)


def publishable(*limits: dict[str, Any]) -> None:
    from fastmesh._core.shm.segment import Segment

    Segment.create(1).publish(packed(config(vhost(["*"], route(limits=list(limits))))))


def test_limits_are_bounded_and_the_extremes_are_taken() -> None:
    publishable(*[{**LIMIT, "owner": str(i)} for i in range(66)])
    with pytest.raises(SnapshotError, match="more than 66"):
        publishable(*[{**LIMIT, "owner": str(i)} for i in range(67)])
    publishable({**LIMIT, "most": 7, "fill_ms": 2**32 - 1}, {**LIMIT, "fill": 50_000, "most": 2**32 - 1})
