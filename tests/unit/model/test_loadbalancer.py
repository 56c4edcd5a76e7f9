"""DestinationRule loadBalancer: what is refused, what is warned of, and what a cluster is made of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh.compile.lbpolicy import balance
from fastmesh.model.load import load_dicts

AT = "spec.trafficPolicy.loadBalancer"


def rule(text: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "x"},
        "spec": {"host": "a.example", "trafficPolicy": {"loadBalancer": yaml.safe_load(text)}},
    }


def problems(text: str, severity: str) -> list[str]:
    found = load_dicts([rule(text)]).problems
    return [f"{p.path}: {p.message}" for p in found if p.severity == severity]


KEYS = "httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{warmup: {}}", ".warmup.duration: is required"),
        ("{warmup: {duration: 0s}}", ".warmup.duration: must be at least 1ms"),
        ("{warmup: {duration: 1s, aggression: 0.5}}", ".warmup.aggression: must be 1 to 100, not 0.5"),
        (
            "{warmup: {duration: 1s, minimumPercent: 101}}",
            ".warmup.minimumPercent: must be 0 to 100, not 101",
        ),
        ("{consistentHash: {}}", f".consistentHash: needs one of {KEYS}"),
        ("{consistentHash: {maglev: {}}}", f".consistentHash: needs one of {KEYS}"),
        (
            "{simple: RANDOM, consistentHash: {useSourceIp: true}}",
            ": only one of simple, consistentHash may be given, not simple and consistentHash",
        ),
        (
            "{consistentHash: {useSourceIp: true, httpHeaderName: x}}",
            f".consistentHash: only one of {KEYS} may be given, not httpHeaderName and useSourceIp",
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {}, maglev: {}}}",
            ".consistentHash: only one of ringHash, maglev may be given, not ringHash and maglev",
        ),
        (
            "{consistentHash: {httpHeaderName: 'a b'}}",
            '.consistentHash.httpHeaderName: "a b" is not a header name',
        ),
        ("{consistentHash: {httpHeaderName: ''}}", ".consistentHash.httpHeaderName: must not be empty"),
        (
            "{consistentHash: {httpQueryParameterName: ''}}",
            ".consistentHash.httpQueryParameterName: must not be empty",
        ),
        ("{consistentHash: {httpCookie: {}}}", ".consistentHash.httpCookie.name: is required"),
        (
            "{consistentHash: {httpCookie: {name: 'a=b'}}}",
            '.consistentHash.httpCookie.name: "a=b" is not the name of a cookie',
        ),
        (
            "{consistentHash: {httpCookie: {name: a, path: '/;Secure'}}}",
            ".consistentHash.httpCookie.path: must not have a semicolon, white space or anything "
            "outside ASCII in it",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, ttl: 5}}}",
            ".consistentHash.httpCookie.ttl: must be a duration such as 5s or 100ms, not a whole number",
        ),
        (
            "{consistentHash: {httpCookie: {name: a, attributes: [{name: SameSite}]}}}",
            ".consistentHash.httpCookie.attributes: not implemented yet",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}",
            ".consistentHash.maglev.tableSize: must be a prime",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 0}}}",
            ".consistentHash.maglev.tableSize: must be 1 to 1048576, not 0",
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 1048577}}}",
            ".consistentHash.ringHash.minimumRingSize: must be 0 to 1048576, not 1048577",
        ),
    ],
)
def test_refused(text: str, problem: str) -> None:
    assert problems(text, "error") == [AT + problem]


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 9}}",
            [".consistentHash.minimumRingSize: is deprecated by Istio"],
        ),
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 9, maglev: {}}}",
            [
                ".consistentHash.minimumRingSize: is deprecated by Istio",
                ".consistentHash.minimumRingSize: has no effect beside maglev, as in Istio",
            ],
        ),
        ("{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 9}}}", []),
    ],
)
def test_warned(text: str, warnings: list[str]) -> None:
    assert problems(text, "error") == []
    assert problems(text, "warning") == [AT + w for w in warnings]


def test_warmup_where_it_has_no_effect_is_warned_of() -> None:
    for text, algorithm in (
        ("{simple: RANDOM, warmup: {duration: 1m}}", "RANDOM"),
        ("{consistentHash: {useSourceIp: true}, warmup: {duration: 1m}}", "consistentHash"),
    ):
        assert problems(text, "error") == []
        assert problems(text, "warning") == [f"{AT}.warmup: has no effect with {algorithm}, as in Istio"]
    assert problems("{warmupDurationSecs: 1m, warmup: {duration: 1m}}", "warning") == [
        f"{AT}.warmupDurationSecs: is deprecated by Istio",
        f"{AT}.warmupDurationSecs: has no effect beside warmup, as in Istio",
    ]


SOURCE = {"on": "source"}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("{}", {}),
        ("{simple: LEAST_REQUEST}", {}),
        ("{simple: RANDOM}", {"lb": "RANDOM"}),
        ("{simple: PEAK_EWMA}", {"lb": "PEAK_EWMA"}),
        ("{warmupDurationSecs: 30s}", {"warm": {"ms": 30_000}}),
        ("{simple: RANDOM, warmup: {duration: 5s}}", {"lb": "RANDOM"}),
        (
            "{simple: ROUND_ROBIN, warmupDurationSecs: 30s, "
            "warmup: {duration: 1m, minimumPercent: 20, aggression: 1.5}}",
            {"lb": "ROUND_ROBIN", "warm": {"ms": 60_000, "least_percent": 20, "aggression_centi": 150}},
        ),
        ("{simple: PEAK_EWMA, warmup: {duration: 5s}}", {"lb": "PEAK_EWMA", "warm": {"ms": 5000}}),
        ("{consistentHash: {useSourceIp: true}}", {"lb": "RING_HASH", "hash": SOURCE}),
        ("{consistentHash: {useSourceIp: false}}", {"lb": "RANDOM"}),
        (
            "{consistentHash: {httpHeaderName: X-User}}",
            {"lb": "RING_HASH", "hash": {"on": "header", "name": "X-User"}},
        ),
        (
            "{consistentHash: {httpQueryParameterName: q}}",
            {"lb": "RING_HASH", "hash": {"on": "query", "name": "q"}},
        ),
        (
            "{consistentHash: {httpCookie: {name: c}}}",
            {"lb": "RING_HASH", "hash": {"on": "cookie", "name": "c"}},
        ),
        (
            "{consistentHash: {httpCookie: {name: c, ttl: 0s, path: ''}}}",
            {"lb": "RING_HASH", "hash": {"on": "cookie", "name": "c", "ttl_s": 0}},
        ),
        (
            "{consistentHash: {httpCookie: {name: c, ttl: 1.9s, path: /a}}}",
            {"lb": "RING_HASH", "hash": {"on": "cookie", "name": "c", "ttl_s": 1, "path": "/a"}},
        ),
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 7}}",
            {"lb": "RING_HASH", "hash": {**SOURCE, "size": 7}},
        ),
        (
            "{consistentHash: {useSourceIp: true, minimumRingSize: 7, ringHash: {}}}",
            {"lb": "RING_HASH", "hash": SOURCE},
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8}}}",
            {"lb": "RING_HASH", "hash": {**SOURCE, "size": 8}},
        ),
        (
            "{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 0}}}",
            {"lb": "RING_HASH", "hash": SOURCE},
        ),
        ("{consistentHash: {useSourceIp: true, maglev: {}}}", {"lb": "MAGLEV", "hash": SOURCE}),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 11}, minimumRingSize: 7}}",
            {"lb": "MAGLEV", "hash": {**SOURCE, "size": 11}},
        ),
    ],
)
def test_what_a_cluster_is_made_of(text: str, made: dict[str, Any]) -> None:
    (resource,) = load_dicts([rule(text)]).ok()
    out: Any = {}
    balance(out, resource.spec["trafficPolicy"]["loadBalancer"])
    assert out == made
