"""Each field of a VirtualService's http rules, and the IR route that it becomes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fastmesh.compile.routes import MESH, compile_routes
from fastmesh.model.load import load_dicts
from fastmesh.model.schema import Resource

RETRIES = {"attempts": 2, "retry_on": ["connect-failure", "refused-stream", "unavailable", "cancelled"]}
DESTS = [{"cluster": "80||b.example", "weight": 1}]
ROUTE = [{"destination": {"host": "b.example"}}]


def resolve(destination: dict[str, Any], namespace: str, port: int) -> str:
    number = destination.get("port", {}).get("number", port)
    return f"{number}|{destination.get('subset', '')}|{destination['host']}"


def virtual_service(http: list[Any], **more: Any) -> Resource:
    doc = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "x"},
        "spec": {"hosts": ["a.example"], "http": http, **more},
    }
    return load_dicts([doc]).ok()[0]


def routes(http: list[Any], gateway: str = MESH, port: int = 80, **more: Any) -> Any:
    return compile_routes(virtual_service(http, **more), gateway, port, resolve)


# YAML of a match -> path and conditions of the IR
MATCHES: list[tuple[str, dict[str, Any]]] = [
    ("{uri: {exact: /a}}", {"path": {"op": "exact", "value": "/a"}}),
    ("{uri: {prefix: /a}}", {"path": {"op": "prefix", "value": "/a"}}),
    ("{uri: {regex: '/a/[0-9]+'}}", {"path": {"op": "regex", "value": "/a/[0-9]+"}}),
    (
        "{uri: {exact: /a}, ignoreUriCase: true}",
        {"path": {"op": "exact", "value": "/a", "ignore_case": True}},
    ),
    (
        "{uri: {prefix: /a}, ignoreUriCase: true}",
        {"path": {"op": "prefix", "value": "/a", "ignore_case": True}},
    ),
    ("{uri: {prefix: /a}, ignoreUriCase: false}", {"path": {"op": "prefix", "value": "/a"}}),
    ("{uri: {regex: /a}, ignoreUriCase: true}", {"path": {"op": "regex", "value": "/a"}}),
    ("{method: {exact: GET}}", {"conds": [{"on": "method", "op": "exact", "value": "GET"}]}),
    ("{method: {regex: GET|HEAD}}", {"conds": [{"on": "method", "op": "regex", "value": "GET|HEAD"}]}),
    ("{scheme: {exact: https}}", {"conds": [{"on": "scheme", "op": "exact", "value": "https"}]}),
    ("{authority: {prefix: a.}}", {"conds": [{"on": "authority", "op": "prefix", "value": "a."}]}),
    (
        "{headers: {X-User: {exact: jason}}}",
        {"conds": [{"on": "header", "op": "exact", "name": "x-user", "value": "jason"}]},
    ),
    ("{headers: {x: {exact: ''}}}", {"conds": [{"on": "header", "op": "exact", "name": "x", "value": ""}]}),
    ("{headers: {x: {prefix: a}}}", {"conds": [{"on": "header", "op": "prefix", "name": "x", "value": "a"}]}),
    ("{headers: {x: {regex: a+}}}", {"conds": [{"on": "header", "op": "regex", "name": "x", "value": "a+"}]}),
    ("{headers: {x: {}}}", {"conds": [{"on": "header", "op": "present", "name": "x"}]}),
    ("{headers: {x: {regex: '*'}}}", {"conds": [{"on": "header", "op": "present", "name": "x"}]}),
    ("{headers: {x: {prefix: ''}}}", {"conds": [{"on": "header", "op": "present", "name": "x"}]}),
    (
        "{headers: {':authority': {exact: a.example}}}",
        {"conds": [{"on": "authority", "op": "exact", "value": "a.example"}]},
    ),
    ("{headers: {':method': {exact: PUT}}}", {"conds": [{"on": "method", "op": "exact", "value": "PUT"}]}),
    (
        "{withoutHeaders: {x: {}}}",
        {"conds": [{"on": "header", "op": "present", "name": "x", "negate": True}]},
    ),
    (
        "{withoutHeaders: {x: {exact: a}}}",
        {"conds": [{"on": "header", "op": "exact", "name": "x", "value": "a", "negate": True}]},
    ),
    (
        "{queryParams: {q: {exact: a}}}",
        {"conds": [{"on": "query", "op": "exact", "name": "q", "value": "a"}]},
    ),
    (
        "{queryParams: {q: {exact: ''}}}",
        {"conds": [{"on": "query", "op": "exact", "name": "q", "value": ""}]},
    ),
    (
        "{queryParams: {q: {regex: '\\d+$'}}}",
        {"conds": [{"on": "query", "op": "regex", "name": "q", "value": "\\d+$"}]},
    ),
    ("{queryParams: {q: {}}}", {"conds": [{"on": "query", "op": "present", "name": "q"}]}),
    ("{port: 80}", {}),
    ("{gateways: [mesh]}", {}),
    ("{name: n, uri: {exact: /a}}", {"name": "n", "path": {"op": "exact", "value": "/a"}}),
    (
        "{uri: {prefix: /a}, method: {exact: GET}, headers: {x: {}}}",
        {
            "path": {"op": "prefix", "value": "/a"},
            "conds": [
                {"on": "method", "op": "exact", "value": "GET"},
                {"on": "header", "op": "present", "name": "x"},
            ],
        },
    ),
]


@pytest.mark.parametrize(("match", "expected"), MATCHES, ids=[m for m, _ in MATCHES])
def test_a_match(match: str, expected: dict[str, Any]) -> None:
    assert routes([{"match": [yaml.safe_load(match)], "route": ROUTE}]) == [
        {**expected, "dests": DESTS, "retries": RETRIES}
    ]


FORWARD = {"dests": DESTS, "retries": RETRIES}
# YAML of an http rule -> IR
ACTIONS: list[tuple[str, dict[str, Any]]] = [
    ("route: [{destination: {host: b.example}}]", FORWARD),
    ("route: [{destination: {host: b.example}, weight: 30}]", FORWARD),
    (
        "route: [{destination: {host: b.example, subset: v1, port: {number: 8080}}}]",
        {"dests": [{"cluster": "8080|v1|b.example", "weight": 1}], "retries": RETRIES},
    ),
    (
        "route: [{destination: {host: b.example}, weight: 95}, {destination: {host: c.example}, weight: 5}, "
        "{destination: {host: d.example}}]",
        {
            "dests": [{"cluster": "80||b.example", "weight": 95}, {"cluster": "80||c.example", "weight": 5}],
            "retries": RETRIES,
        },
    ),
    ("name: n\nroute: [{destination: {host: b.example}}]", {**FORWARD, "name": "n"}),
    ("timeout: 1.5s\nroute: [{destination: {host: b.example}}]", {**FORWARD, "timeout_ms": 1500}),
    ("timeout: 0s\nroute: [{destination: {host: b.example}}]", FORWARD),
    ("retries: {attempts: 0}\nroute: [{destination: {host: b.example}}]", {"dests": DESTS}),
    (
        "retries: {attempts: 3, perTryTimeout: 2s}\nroute: [{destination: {host: b.example}}]",
        {
            "dests": DESTS,
            "retries": {
                "attempts": 3,
                "per_try_timeout_ms": 2000,
                "retry_on": ["connect-failure", "refused-stream", "unavailable", "cancelled"],
            },
        },
    ),
    (
        "retries: {attempts: 1, retryOn: 'cancelled,deadline-exceeded,internal,resource-exhausted,"
        "unavailable,refused-stream'}\nroute: [{destination: {host: b.example}}]",
        {
            "dests": DESTS,
            "retries": {
                "attempts": 1,
                "retry_on": [
                    "cancelled",
                    "deadline-exceeded",
                    "internal",
                    "resource-exhausted",
                    "unavailable",
                    "refused-stream",
                ],
            },
        },
    ),
    (
        "retries: {attempts: 1, retryOn: reset, retryIgnorePreviousHosts: false}\n"
        "route: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["reset"], "same": True}},
    ),
    (
        "retries: {attempts: 1, retryOn: reset, retryIgnorePreviousHosts: true}\n"
        "route: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["reset"]}},
    ),
    (
        "retries: {attempts: 1, retryOn: reset, retryRemoteLocalities: true}\n"
        "route: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["reset"], "anywhere": True}},
    ),
    (
        "retries: {attempts: 1, retryOn: reset, retryRemoteLocalities: false}\n"
        "route: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["reset"]}},
    ),
    (
        "retries: {attempts: 1, retryOn: 'connect-failure, reset-before-request'}\n"
        "route: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["connect-failure", "reset-before-request"]}},
    ),
    (
        "retries: {attempts: 1, retryOn: 'envoy-ratelimited'}\nroute: [{destination: {host: b.example}}]",
        {"dests": DESTS, "retries": {"attempts": 1, "retry_on": ["envoy-ratelimited"]}},
    ),
    (
        "rewrite: {uri: /new}\nroute: [{destination: {host: b.example}}]",
        {**FORWARD, "path": {"op": "prefix", "value": "/"}, "rewrite": {"path": "/new"}},
    ),
    (
        "rewrite: {authority: 'c.example:81'}\nroute: [{destination: {host: b.example}}]",
        {**FORWARD, "rewrite": {"authority": "c.example:81"}},
    ),
    (
        "match: [{uri: {regex: /a}}]\nrewrite: {uri: /new, authority: c.example}\nroute: [{destination: "
        "{host: b.example}}]",
        {
            **FORWARD,
            "path": {"op": "regex", "value": "/a"},
            "rewrite": {"path": "/new", "authority": "c.example"},
        },
    ),
    (
        "headers: {request: {set: {A: x, Host: c.example}, add: {B: 100%%}, remove: [C]}, response: "
        "{set: {D: y}}}\n"
        "route: [{destination: {host: b.example}}]",
        {
            **FORWARD,
            "rewrite": {"authority": "c.example"},
            "response_headers": {"set": [["D", "y"]]},
            "request_headers": {"remove": ["C"], "set": [["A", "x"]], "add": [["B", "100%"]]},
        },
    ),
    (
        "route: [{destination: {host: b.example}, headers: {request: {set: {A: x}}, response: {remove: "
        "[B]}}}]",
        {
            "dests": [
                {
                    "cluster": "80||b.example",
                    "weight": 1,
                    "request_headers": {"set": [["A", "x"]]},
                    "response_headers": {"remove": ["B"]},
                }
            ],
            "retries": RETRIES,
        },
    ),
    ("redirect: {uri: /x}", {"redirect": {"code": 301, "path": "/x"}}),
    (
        "redirect: {uri: '/x?a=b', authority: c.example, scheme: https, redirectCode: 308, port: 8443}",
        {
            "redirect": {
                "code": 308,
                "path": "/x?a=b",
                "authority": "c.example",
                "scheme": "https",
                "port": 8443,
            }
        },
    ),
    (
        "redirect: {scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}",
        {"redirect": {"code": 301, "scheme": "https"}},
    ),
    (
        "redirect: {authority: c.example, derivePort: FROM_REQUEST_PORT}",
        {"redirect": {"code": 301, "authority": "c.example", "port": 80}},
    ),
    (
        "match: [{uri: {prefix: /a}}]\nredirect: {prefixRewrite: /b}",
        {"path": {"op": "prefix", "value": "/a"}, "redirect": {"code": 301, "prefix": "/b"}},
    ),
    (
        "redirect: {uri: /x}\nheaders: {response: {add: {A: x}}}",
        {"redirect": {"code": 301, "path": "/x"}, "response_headers": {"add": [["A", "x"]]}},
    ),
    ("directResponse: {status: 503}", {"direct": {"status": 503}}),
    (
        "rewrite: {uriRegexRewrite: {match: '/a/(.*)', rewrite: '/b/\\1'}}\n"
        "route: [{destination: {host: b.example}}]",
        {**FORWARD, "rewrite": {"regex": "/a/(.*)", "path": "/b/\\1"}},
    ),
    (
        "mirror: {host: c.example}\nroute: [{destination: {host: b.example}}]",
        {**FORWARD, "mirrors": [{"cluster": "80||c.example", "ppm": 1_000_000}]},
    ),
    (
        "mirror: {host: c.example, subset: v2}\nmirrorPercentage: {value: 0.5}\n"
        "route: [{destination: {host: b.example}}]",
        {**FORWARD, "mirrors": [{"cluster": "80|v2|c.example", "ppm": 5000}]},
    ),
    (
        "mirror: {host: c.example}\nmirrorPercentage: {}\nroute: [{destination: {host: b.example}}]",
        FORWARD,
    ),
    (
        "mirrors: [{destination: {host: c.example}}, "
        "{destination: {host: d.example}, percentage: {value: 10}}]\n"
        "route: [{destination: {host: b.example}}]",
        {
            **FORWARD,
            "mirrors": [
                {"cluster": "80||c.example", "ppm": 1_000_000},
                {"cluster": "80||d.example", "ppm": 100_000},
            ],
        },
    ),
    (
        "corsPolicy: {allowOrigins: [{exact: 'https://a.b'}, {prefix: 'http://l'}, {regex: '.*x'}, "
        "{exact: '*'}], allowMethods: [GET], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 1m, "
        "allowCredentials: true, unmatchedPreflights: IGNORE}\nroute: [{destination: {host: b.example}}]",
        {
            **FORWARD,
            "cors": {
                "origins": [
                    {"op": "exact", "value": "https://a.b"},
                    {"op": "prefix", "value": "http://l"},
                    {"op": "regex", "value": ".*x"},
                    {"op": "any"},
                ],
                "methods": ["GET"],
                "headers": ["x-a", "x-b"],
                "expose": ["x-c"],
                "max_age_s": 60,
                "credentials": True,
                "forward": False,
            },
        },
    ),
    (
        "corsPolicy: {allowOrigin: ['*', 'https://a.b'], unmatchedPreflights: FORWARD}\n"
        "directResponse: {status: 200}",
        {
            "direct": {"status": 200},
            "cors": {"origins": [{"op": "any"}, {"op": "exact", "value": "https://a.b"}]},
        },
    ),
    (
        "match: [{sourceLabels: {version: v1}, sourceNamespace: shop}]\n"
        "route: [{destination: {host: b.example}}]",
        {**FORWARD, "source": {"labels": {"version": "v1"}, "namespace": "shop"}},
    ),
    (
        "directResponse: {status: 200, body: {string: 'grüß'}}",
        {"direct": {"status": 200, "body": "grüß".encode(), "content_type": "text/plain"}},
    ),
    (
        "directResponse: {status: 200, body: {bytes: AAE=}}",
        {"direct": {"status": 200, "body": b"\x00\x01", "content_type": "text/plain"}},
    ),
]


@pytest.mark.parametrize(("rule", "expected"), ACTIONS, ids=[a.replace("\n", "; ") for a, _ in ACTIONS])
def test_an_action(rule: str, expected: dict[str, Any]) -> None:
    assert routes([yaml.safe_load(rule)]) == [expected]


def test_matches_are_alternatives() -> None:
    made = routes(
        [
            {
                "name": "r",
                "match": [{"name": "m", "uri": {"exact": "/a"}}, {"uri": {"exact": "/b"}}],
                "route": ROUTE,
            }
        ]
    )
    assert [(r.get("name"), r["path"]["value"]) for r in made] == [("r.m", "/a"), ("r", "/b")]


def test_rules_of_another_port_are_left_out() -> None:
    http = [{"match": [{"port": 81}], "directResponse": {"status": 201}}, {"route": ROUTE}]
    assert [len(routes(http, port=p)) for p in (80, 81)] == [1, 2]


def test_a_match_names_its_own_gateways() -> None:
    http = [
        {"match": [{"gateways": ["other/gw"]}], "directResponse": {"status": 201}},
        {"match": [{"gateways": ["gw", "mesh"]}], "directResponse": {"status": 202}},
        {"route": ROUTE},
    ]
    found = {
        g: [r.get("direct", {}).get("status") for r in routes(http, g, gateways=["gw"])]
        for g in ("other/gw", "default/gw", "mesh")
    }
    assert found == {"other/gw": [201], "default/gw": [202, None], "mesh": [202]}


def test_only_clusters_that_can_be_chosen_are_asked_for() -> None:
    asked: list[str] = []

    def note(destination: dict[str, Any], namespace: str, port: int) -> str:
        asked.append(destination["host"])
        return destination["host"]

    http = [
        {
            "route": [
                {"destination": {"host": "a.b"}, "weight": 1},
                {"destination": {"host": "c.d"}, "weight": 0},
            ]
        },
        {"match": [{"port": 81}], "route": [{"destination": {"host": "e.f"}}]},
    ]
    compile_routes(virtual_service(http), MESH, 80, note)
    assert asked == ["a.b"]
