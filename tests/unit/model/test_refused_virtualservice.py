"""What the schema of VirtualService refuses: the exact path and message of each."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.resources import VALID, check, put

REFUSED: list[tuple[str, str, Any, str]] = [
    # kind, path below spec, value, "path: message" (path below spec)
    ("VirtualService", "hosts", "a.example", "hosts: must be a list, not a string"),
    ("VirtualService", "hosts", ["a b"], 'hosts[0]: "a b" is not a host name or IP address'),
    ("VirtualService", "hosts", ["http://a"], 'hosts[0]: "http://a" is not a host name or IP address'),
    ("VirtualService", "hosts", ["a.*.b"], 'hosts[0]: "a.*.b": the wildcard must be the whole first label'),
    (
        "VirtualService",
        "hosts",
        ["*-a.b"],
        'hosts[0]: "*-a.b": a wildcard within a label is not implemented yet',
    ),
    ("VirtualService", "hosts", ["a.example", "A.example"], "hosts[1]: the host A.example is named twice"),
    ("VirtualService", "gateways", ["a/b/c"], 'gateways[0]: "a/b/c" is not a gateway\'s name'),
    ("VirtualService", "http", [], "http: needs at least one http, tls or tcp route"),
    ("VirtualService", "http", None, "http: has no value"),
    ("VirtualService", "http[0]", "x", "http[0]: must be a mapping (HTTPRoute), not a string"),
    ("VirtualService", "http[0].name", 7, "http[0].name: must be a string, not a whole number"),
    (
        "VirtualService",
        "http[0].timeout",
        5,
        "http[0].timeout: must be a duration such as 5s or 100ms, not a whole number",
    ),
    ("VirtualService", "http[0].timeout", "5", 'http[0].timeout: "5" is not a duration'),
    ("VirtualService", "http[0].timeout", "0.5ms", "http[0].timeout: must be at least 1ms"),
    ("VirtualService", "http[0].timeout", "1.0005s", "http[0].timeout: must be whole milliseconds"),
    ("VirtualService", "http[0].timeout", "2000h", "http[0].timeout: must be at most 1193h"),
    ("VirtualService", "http[0].timeout", "-1s", 'http[0].timeout: "-1s" is not a duration'),
    ("VirtualService", "http[0].match", [{}], "http[0].match[0]: a match must not be empty"),
    ("VirtualService", "http[0].match[0].uri", {}, "http[0].match[0].uri: needs one of exact, prefix, regex"),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"exact": "/", "prefix": "/"},
        "http[0].match[0].uri: only one of exact, prefix, regex may be given, not exact and prefix",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"suffix": "/"},
        "http[0].match[0].uri.suffix: unknown field of StringMatch",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "a(?=b)"},
        "http[0].match[0].uri.regex: the regex uses look-around or another construct that RE2 has not",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "(a)\\1"},
        "http[0].match[0].uri.regex: the regex uses a back-reference, which RE2 has not",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "a++"},
        "http[0].match[0].uri.regex: the regex uses a possessive quantifier, which RE2 has not",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "a{2000}"},
        "http[0].match[0].uri.regex: the regex repeats more than 1000 times",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "a" * 1025},
        "http[0].match[0].uri.regex: the regex is longer than 1024 characters",
    ),
    (
        "VirtualService",
        "http[0].match[0].uri",
        {"regex": "(a"},
        "http[0].match[0].uri.regex: the regex is malformed: "
        "missing ), unterminated subpattern at position 0",
    ),
    ("VirtualService", "http[0].match[0].port", 0, "http[0].match[0].port: must be 1 to 65535, not 0"),
    (
        "VirtualService",
        "http[0].match[0].port",
        True,
        "http[0].match[0].port: must be a whole number, not a boolean",
    ),
    (
        "VirtualService",
        "http[0].match[0].headers",
        {"uri": {"exact": "/"}},
        'http[0].match[0].headers.uri: "uri" is not a header here (Istio ignores this key)',
    ),
    (
        "VirtualService",
        "http[0].match[0].headers",
        {":path": {"exact": "/"}},
        'http[0].match[0].headers[":path"]: matching the pseudo header :path is not implemented yet',
    ),
    (
        "VirtualService",
        "http[0].match[0].headers",
        {"a b": {}},
        'http[0].match[0].headers["a b"]: "a b" is not a header name',
    ),
    (
        "VirtualService",
        "http[0].match[0].headers",
        {"x": None},
        "http[0].match[0].headers.x: must be a mapping (StringMatch), not nothing",
    ),
    (
        "VirtualService",
        "http[0].match[0].queryParams",
        {"": {"exact": "/"}},
        'http[0].match[0].queryParams[""]: the name of a query parameter must not be empty',
    ),
    (
        "VirtualService",
        "http[0].match[0].ignoreUriCase",
        "yes",
        "http[0].match[0].ignoreUriCase: must be true or false, not a string",
    ),
    (
        "VirtualService",
        "http[0].route",
        [],
        "http[0]: needs one of route, redirect, directResponse, delegate",
    ),
    (
        "VirtualService",
        "http[0].redirect",
        {"uri": "/x"},
        "http[0]: route and redirect contradict each other",
    ),
    (
        "VirtualService",
        "http[0].directResponse",
        {"status": 200},
        "http[0]: route and directResponse contradict each other",
    ),
    ("VirtualService", "http[0]", {"redirect": {}}, "http[0].redirect: a redirect must change something"),
    (
        "VirtualService",
        "http[0]",
        {"redirect": {"uri": "/", "redirectCode": 300}},
        "http[0].redirect.redirectCode: must be one of 301, 302, 303, 307, 308, not 300",
    ),
    (
        "VirtualService",
        "http[0]",
        {"redirect": {"uri": "/", "scheme": "ftp"}},
        "http[0].redirect.scheme: must be http or https",
    ),
    (
        "VirtualService",
        "http[0]",
        {"redirect": {"port": 80, "derivePort": "FROM_REQUEST_PORT"}},
        "http[0].redirect: only one of port, derivePort may be given, not port and derivePort",
    ),
    (
        "VirtualService",
        "http[0]",
        {"redirect": {"prefixRewrite": "/x"}},
        "http[0].redirect.prefixRewrite: needs a match by uri.prefix",
    ),
    (
        "VirtualService",
        "http[0]",
        {"redirect": {"uri": "/x"}, "timeout": "1s"},
        "http[0].timeout: is possible with route only, not with redirect",
    ),
    (
        "VirtualService",
        "http[0]",
        {"directResponse": {"status": 199}},
        "http[0].directResponse.status: must be 200 to 599, not 199",
    ),
    ("VirtualService", "http[0]", {"directResponse": {}}, "http[0].directResponse.status: is required"),
    (
        "VirtualService",
        "http[0]",
        {"directResponse": {"status": 200, "body": {}}},
        "http[0].directResponse.body: needs string or bytes",
    ),
    (
        "VirtualService",
        "http[0]",
        {"directResponse": {"status": 200, "body": {"bytes": "%"}}},
        "http[0].directResponse.body.bytes: is not valid base64",
    ),
    ("VirtualService", "http[0].rewrite", {}, "http[0].rewrite: must rewrite something"),
    ("VirtualService", "http[0].rewrite", {"uri": "x"}, "http[0].rewrite.uri: must begin with /"),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uri": "/a b"},
        "http[0].rewrite.uri: a path must not contain spaces or control characters",
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uri": "/?x"},
        "http[0].rewrite.uri: must be a path: without ? and #",
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"authority": "a:b"},
        'http[0].rewrite.authority: "a:b" is not a host or host:port',
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uriRegexRewrite": {}},
        "http[0].rewrite.uriRegexRewrite.match: is missing or empty",
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uri": "/a", "uriRegexRewrite": {"match": "a", "rewrite": "b"}},
        "http[0].rewrite: only one of uri, uriRegexRewrite may be given, not uri and uriRegexRewrite",
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uriRegexRewrite": {"match": "(?=a)", "rewrite": "b"}},
        "http[0].rewrite.uriRegexRewrite.match: the regex uses look-around or another construct that RE2 "
        "has not",
    ),
    (
        "VirtualService",
        "http[0].rewrite",
        {"uriRegexRewrite": {"match": "a", "rewrite": "b c"}},
        "http[0].rewrite.uriRegexRewrite.rewrite: must not contain spaces, controls, ?, # or characters "
        "beyond ASCII",
    ),
    ("VirtualService", "http[0].mirror", {}, "http[0].mirror.host: is required"),
    ("VirtualService", "http[0].mirrorPercentage", {"value": 1}, "http[0].mirrorPercentage: needs mirror"),
    (
        "VirtualService",
        "http[0].mirrors",
        [{"destination": {"host": "a"}, "percentage": {"value": 101}}],
        "http[0].mirrors[0].percentage.value: must be 0 to 100, not 101",
    ),
    (
        "VirtualService",
        "http[0].mirrors",
        [{"destination": {"host": "a"}}] * 5,
        "http[0].mirrors: more than 4 copies of a request",
    ),
    ("VirtualService", "http[0].corsPolicy", {}, "http[0].corsPolicy.allowOrigins: allows no origin"),
    (
        "VirtualService",
        "http[0].corsPolicy",
        {"allowOrigins": [{}]},
        "http[0].corsPolicy.allowOrigins[0]: needs one of exact, prefix, regex",
    ),
    (
        "VirtualService",
        "http[0].corsPolicy",
        {"allowOrigins": [{"exact": "*"}], "allowOrigin": ["*"]},
        "http[0].corsPolicy.allowOrigin: contradicts allowOrigins",
    ),
    (
        "VirtualService",
        "http[0].corsPolicy",
        {"allowOrigins": [{"exact": "*"}], "allowMethods": ["G E"]},
        'http[0].corsPolicy.allowMethods[0]: "G E" is not a header name',
    ),
    (
        "VirtualService",
        "http[0].corsPolicy",
        {"allowOrigins": [{"exact": "*"}], "maxAge": "1.5s"},
        "http[0].corsPolicy.maxAge: must be whole seconds",
    ),
    (
        "VirtualService",
        "http[0].match[0].sourceNamespace",
        "A_b",
        'http[0].match[0].sourceNamespace: "A_b" is not a valid namespace',
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": -1},
        "http[0].retries.attempts: must be 0 to 100, not -1",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": "connect-failure,retriable-headers"},
        "http[0].retries.retryOn: retriable-headers: Istio has no field for the names of the headers: "
        "it retries nothing",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": "5xx,http3-post-connect-failure"},
        "http[0].retries.retryOn: http3-post-connect-failure: no upstream is spoken to in HTTP/3",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": "5xx,103"},
        'http[0].retries.retryOn: "103" is not a retry condition',
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": ",".join(str(s) for s in range(400, 417))},
        "http[0].retries.retryOn: names more than 16 statuses",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": "aborted"},
        'http[0].retries.retryOn: "aborted" is not a retry condition',
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryOn": "bad"},
        'http[0].retries.retryOn: "bad" is not a retry condition',
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryRemoteLocalities": 1},
        "http[0].retries.retryRemoteLocalities: must be true or false, not a whole number",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "retryIgnorePreviousHosts": "no"},
        "http[0].retries.retryIgnorePreviousHosts: must be true or false, not a string",
    ),
    ("VirtualService", "http[0].fault", {}, "http[0].fault: needs delay or abort"),
    ("VirtualService", "http[0].fault", {"delay": {}}, "http[0].fault.delay: needs fixedDelay"),
    ("VirtualService", "http[0].fault", {"abort": {}}, "http[0].fault.abort: needs httpStatus or grpcStatus"),
    (
        "VirtualService",
        "http[0].fault",
        {"abort": {"httpStatus": 100}},
        "http[0].fault.abort.httpStatus: must be 200 to 599, not 100",
    ),
    (
        "VirtualService",
        "http[0].fault",
        {"abort": {"grpcStatus": "BROKEN"}},
        "http[0].fault.abort.grpcStatus: 'BROKEN' is not a gRPC status",
    ),
    (
        "VirtualService",
        "http[0].fault",
        {"delay": {"fixedDelay": "1s", "percentage": {"value": 100.5}}},
        "http[0].fault.delay.percentage.value: must be 0 to 100, not 100.5",
    ),
    (
        "VirtualService",
        "http[0].retries",
        {"attempts": 1, "backoff": "301s"},
        "http[0].retries.backoff: must be at most 300s",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {"x": 1}}},
        "http[0].headers.request.set.x: must be a string, not a whole number",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {"x": "a\nb"}}},
        "http[0].headers.request.set.x: a header value must not contain control characters",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {"x": "%START_TIME%"}}},
        'http[0].headers.request.set.x: substitution of "%START_TIME%" is not implemented yet',
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {"Connection": "close"}}},
        "http[0].headers.request.set.Connection: connection belongs to one connection and cannot be "
        "changed by a rule",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {":path": "/"}}},
        'http[0].headers.request.set[":path"]: the pseudo header ":path" cannot be changed by header rules',
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {"host": "a b"}}},
        'http[0].headers: "a b" is not a host or host:port',
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"remove": ["host"]}},
        "http[0].headers.request.remove[0]: host cannot be removed",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"add": {"Host": "a"}}},
        "http[0].headers.request.add.Host: Host cannot be added",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"request": {"set": {f"x-{i}": "" for i in range(60)}, "remove": [f"y-{i}" for i in range(41)]}},
        "http[0].headers.request: more than 100 operations on headers",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"response": {"set": {"X": "1", "x": "2"}}},
        "http[0].headers.response.set.x: names the same header twice",
    ),
    (
        "VirtualService",
        "http[0].headers",
        {"response": {"set": {"host": "a"}}},
        "http[0].headers.response.set.host: host is not a response header",
    ),
    (
        "VirtualService",
        "http[0].route[0].headers",
        {"request": {"set": {"host": "a"}}},
        "http[0].route[0].headers.request.set.host: setting host for one destination is not implemented yet",
    ),
    (
        "VirtualService",
        "http[0].route[0].weight",
        -1,
        "http[0].route[0].weight: must be 0 to 1000000, not -1",
    ),
    (
        "VirtualService",
        "http[0].route",
        [{"destination": {"host": "a.b"}}, {"destination": {"host": "c.d"}}],
        "http[0].route: all weights are 0: no destination would get a request",
    ),
    ("VirtualService", "http[0].route[0].destination", {}, "http[0].route[0].destination.host: is required"),
    (
        "VirtualService",
        "http[0].route[0].destination",
        {"host": "a", "port": {}},
        "http[0].route[0].destination.port.number: is required",
    ),
    (
        "VirtualService",
        "http[0].route[0].destination",
        {"host": "a", "port": {"name": "http"}},
        "http[0].route[0].destination.port.name: Istio has removed this field",
    ),
    (
        "VirtualService",
        "http[0].route[0].destination",
        {"host": "a", "subset": "a|b"},
        'http[0].route[0].destination.subset: "a|b" is not a valid subset name',
    ),
    (
        "VirtualService",
        "http[0].websocketUpgrade",
        True,
        "http[0].websocketUpgrade: Istio has removed this field",
    ),
    ("VirtualService", "exportTo", ["."], 'exportTo[0]: a visibility other than "*" is not implemented yet'),
]


@pytest.mark.parametrize(("kind", "path", "value", "problem"), REFUSED, ids=lambda v: str(v)[:60])
def test_refused(kind: str, path: str, value: Any, problem: str) -> None:
    spec = VALID[kind]()
    put(spec, path, value)
    assert f"spec.{problem}" in check(kind, spec)
