"""VirtualService, field for field (networking.istio.io; API of Istio 1.31). Only the shape: how objects fit
together is validate.py."""

from __future__ import annotations

from typing import Any, Final

from fastmesh.model import formats as fmt
from fastmesh.model.fields import (
    NOT_YET,
    Bool,
    Bytes,
    Duration,
    Enum,
    Int,
    List,
    Map,
    Message,
    Str,
    clip,
    gone,
    later,
    req,
)
from fastmesh.model.problems import Reporter
from fastmesh.model.schema_cors import CORS_POLICY
from fastmesh.model.schema_fault import FAULT, PERCENT
from fastmesh.model.schema_ratelimit import LOCAL_RATE_LIMIT

PORT: Final = Int(1, 65535)
MAX_WEIGHT: Final = 1_000_000
"""Of one destination: sums stay far below 32 bits."""
MAX_TOTAL_WEIGHT: Final = 16_000_000
MAX_ATTEMPTS: Final = 100
MAX_RETRY_STATUSES: Final = 16
MAX_BACKOFF_MS: Final = 300_000

RETRY_ON: Final = (
    "connect-failure",
    "refused-stream",
    "reset-before-request",
    "reset",
    "5xx",
    "gateway-error",
    "retriable-4xx",
    "retriable-status-codes",
    "envoy-ratelimited",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
"""What the data plane retries on; from `cancelled` on: the status that a gRPC request is answered with."""
RETRY_ON_NEVER: Final = {
    "retriable-headers": (
        "Istio has no field for the names of the headers: it retries nothing",
        "name statuses (429, 503) or envoy-ratelimited",
    ),
    "http3-post-connect-failure": ("no upstream is spoken to in HTTP/3", "remove it"),
}
"""What Istio takes and is a condition of nothing here: the reason, and what to do."""


def export_to_rule(value: str, r: Reporter) -> None:
    if value != "*":
        r.add(f'a visibility other than "*" is {NOT_YET}', "remove exportTo")


EXPORT_TO: Final = List(Str(export_to_rule))


def _string_match(d: dict[str, Any], r: Reporter) -> None:
    if not d:
        r.add("needs one of exact, prefix, regex")
    elif d.get("prefix") == "" or d.get("regex") == "":
        r.add("an empty prefix or regex says nothing", "give a value")


def _value_match(d: dict[str, Any], r: Reporter) -> None:
    if d.get("regex") == "":
        r.add("an empty regex says nothing", "write {} to test for presence")


_MATCH_FIELDS: Final = {"exact": Str(), "prefix": Str(), "regex": Str(fmt.regex)}
_ONE: Final = (("exact", "prefix", "regex"),)
STRING_MATCH: Final = Message("StringMatch", _MATCH_FIELDS, one_of=_ONE, rule=_string_match)
# In headers and query parameters {} asks for presence.
VALUE_MATCH: Final = Message(
    "StringMatch", {**_MATCH_FIELDS, "regex": Str(fmt.value_regex)}, one_of=_ONE, rule=_value_match
)

IGNORED_HEADER_KEYS: Final = ("uri", "scheme", "method", "authority")


def _matched_header(key: str, r: Reporter) -> None:
    if key in IGNORED_HEADER_KEYS:
        r.add(
            f'"{key}" is not a header here (Istio ignores this key)',
            f"match {key} beside headers, not in them",
        )
    elif key.startswith(":"):
        if key not in (":authority", ":method", ":scheme"):
            r.add(f"matching the pseudo header {key} is {NOT_YET}", "match uri" if key == ":path" else "")
    else:
        fmt.header_name(key, r)


def _query_name(key: str, r: Reporter) -> None:
    if not key:
        r.add("the name of a query parameter must not be empty")


def _http_match(d: dict[str, Any], r: Reporter) -> None:
    conditions = (
        "uri",
        "scheme",
        "method",
        "authority",
        "headers",
        "port",
        "gateways",
        "queryParams",
        "withoutHeaders",
        "sourceLabels",
        "sourceNamespace",
    )
    if not any(d.get(k) for k in conditions):
        r.add("a match must not be empty", "leave match out to take every request")
    uri, method = d.get("uri", {}), d.get("method", {})
    for op in ("exact", "prefix"):
        if op in uri and not uri[op].startswith("/") and uri[op] != "*":
            r.warn("no path begins so: this never matches", "begin with /", at=("uri", op))
        if op in method and method[op] != method[op].upper():
            r.warn("methods are case-sensitive and in upper case: this never matches", at=("method", op))
    if "exact" in method and method["exact"] and not fmt.is_token(method["exact"]):
        r.add(f"{clip(method['exact'])} is not a method: this never matches", at=("method", "exact"))
    for name, wanted in d.get("headers", {}).items():
        if d.get("withoutHeaders", {}).get(name) == wanted:
            r.add(
                "contradicts headers: this never matches", "remove one of both", at=("withoutHeaders", name)
            )
    if d.get("ignoreUriCase") and "regex" in d.get("uri", {}):
        r.warn(
            "is without effect on a regex, as in Istio", "begin the regex with (?i)", at=("ignoreUriCase",)
        )


HTTP_MATCH: Final = Message(
    "HTTPMatchRequest",
    {
        "name": Str(),
        "uri": STRING_MATCH,
        "scheme": STRING_MATCH,
        "method": STRING_MATCH,
        "authority": STRING_MATCH,
        "headers": Map(VALUE_MATCH, _matched_header),
        "port": PORT,
        "sourceLabels": Map(Str(fmt.label_value), fmt.label_key),
        "gateways": List(Str(fmt.gateway_ref)),
        "queryParams": Map(VALUE_MATCH, _query_name),
        "ignoreUriCase": Bool(),
        "withoutHeaders": Map(VALUE_MATCH, _matched_header),
        "sourceNamespace": Str(fmt.namespace_name),
        "statPrefix": later(),
    },
    rule=_http_match,
)

PORT_SELECTOR: Final = Message(
    "PortSelector",
    {
        "number": req(PORT),
        "name": gone("Istio has removed this field", "use number"),
    },
)


def _destination_host(value: str, r: Reporter) -> None:
    if value == "*":
        r.add('"*" is no service', "name the host of one, or *.suffix as its ServiceEntry has it")
    fmt.wildcard_host(value, r)


DESTINATION: Final = Message(
    "Destination",
    {
        "host": req(Str(_destination_host, empty=False)),
        "subset": Str(fmt.subset_name),
        "port": PORT_SELECTOR,
    },
)


MAX_HEADER_OPS: Final = 100  # a head has room for 160 fields, of which 100 may be the client's


def _operations(d: dict[str, Any], r: Reporter) -> None:
    if sum(len(d.get(op, ())) for op in ("set", "add", "remove")) > MAX_HEADER_OPS:
        r.add(f"more than {MAX_HEADER_OPS} operations on headers")
    for op in ("set", "add"):
        seen: set[str] = set()
        for k in d.get(op, {}):
            if k.lower() in seen:
                r.add("names the same header twice", "header names are case-insensitive", at=(op, k))
            seen.add(k.lower())
    for op in ("add", "remove"):
        for i, k in enumerate(d.get(op, ())):
            if k.lower() in ("host", ":authority"):
                r.add(
                    f"{k} cannot be {'added' if op == 'add' else 'removed'}",
                    "use set or rewrite.authority",
                    at=(op, i if op == "remove" else k),
                )


_OPERATIONS: Final = Message(
    "HeaderOperations",
    {
        "set": Map(Str(fmt.header_value), fmt.operated_header_name),
        "add": Map(Str(fmt.header_value), fmt.operated_header_name),
        "remove": List(Str(fmt.operated_header_name)),
    },
    rule=_operations,
)


def _response_operations(d: dict[str, Any], r: Reporter) -> None:
    for op in ("set", "add"):
        for k in d.get("response", {}).get(op, {}):
            if k.lower() in ("host", ":authority"):
                r.add(f"{k} is not a response header", at=("response", op, k))
    for k, v in d.get("request", {}).get("set", {}).items():
        if k.lower() in ("host", ":authority"):
            before = len(r.problems)
            fmt.authority(v, r)
            if len(r.problems) > before:
                return


HEADERS: Final = Message(
    "Headers", {"request": _OPERATIONS, "response": _OPERATIONS}, rule=_response_operations
)


def _destination_headers(d: dict[str, Any], r: Reporter) -> None:
    for k in d.get("headers", {}).get("request", {}).get("set", {}):
        if k.lower() in ("host", ":authority"):
            r.add(
                f"setting {k} for one destination is {NOT_YET}",
                "set it in the route's headers or rewrite.authority",
                at=("headers", "request", "set", k),
            )


HTTP_ROUTE_DESTINATION: Final = Message(
    "HTTPRouteDestination",
    {
        "destination": req(DESTINATION),
        "weight": Int(0, MAX_WEIGHT),
        "headers": HEADERS,
    },
    rule=_destination_headers,
)

REDIRECT_CODES: Final = (301, 302, 303, 307, 308)


def _redirect(d: dict[str, Any], r: Reporter) -> None:
    code = d.get("redirectCode", 301)
    if code not in REDIRECT_CODES:
        r.add(f"must be one of {', '.join(map(str, REDIRECT_CODES))}, not {code}", at=("redirectCode",))
    if not any(k in d for k in ("uri", "authority", "port", "derivePort", "scheme", "prefixRewrite")):
        r.add("a redirect must change something", "give uri, authority, scheme, port or prefixRewrite")
    if d.get("scheme", "https") not in ("http", "https"):
        r.add("must be http or https", at=("scheme",))


HTTP_REDIRECT: Final = Message(
    "HTTPRedirect",
    {
        "uri": Str(fmt.url_path),
        "authority": Str(fmt.authority),
        "port": PORT,
        "derivePort": Enum(["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
        "scheme": Str(),
        "redirectCode": Int(0, 999),
        "prefixRewrite": Str(fmt.rewritten_path),
    },
    one_of=(("port", "derivePort"), ("uri", "prefixRewrite")),
    rule=_redirect,
)


def _body(d: dict[str, Any], r: Reporter) -> None:
    if not d:
        r.add("needs string or bytes", "leave body out for an empty one")


HTTP_DIRECT_RESPONSE: Final = Message(
    "HTTPDirectResponse",
    {
        "status": req(Int(200, 599)),
        "body": Message(
            "HTTPBody", {"string": Str(), "bytes": Bytes()}, one_of=(("string", "bytes"),), rule=_body
        ),
    },
)


def _rewrite(d: dict[str, Any], r: Reporter) -> None:
    if not d:
        r.add("must rewrite something", "give uri, uriRegexRewrite or authority")


def _regex_rewrite(d: dict[str, Any], r: Reporter) -> None:
    for k in ("match", "rewrite"):
        if not d.get(k):
            r.add("is missing or empty", at=(k,))


def _rewritten(value: str, r: Reporter) -> None:
    if any(ch <= " " or ch in "\x7f?#" for ch in value) or not value.isascii():
        r.add("must not contain spaces, controls, ?, # or characters beyond ASCII")


REGEX_REWRITE: Final = Message(
    "RegexRewrite", {"match": Str(fmt.regex), "rewrite": Str(_rewritten)}, rule=_regex_rewrite
)


HTTP_REWRITE: Final = Message(
    "HTTPRewrite",
    {
        "uri": Str(fmt.rewritten_path, empty=False),
        "authority": Str(fmt.authority, empty=False),
        "uriRegexRewrite": REGEX_REWRITE,
    },
    one_of=(("uri", "uriRegexRewrite"),),
    rule=_rewrite,
)


def _retry_on(value: str, r: Reporter) -> None:
    for word in (w.strip() for w in value.split(",")):
        if word in RETRY_ON or (word.isdigit() and 200 <= int(word) <= 599):
            continue
        if word in RETRY_ON_NEVER:
            why, hint = RETRY_ON_NEVER[word]
            r.add(f"{word}: {why}", hint)
        else:
            r.add(f"{clip(word)} is not a retry condition", f"known: {', '.join(RETRY_ON)}")


def _retries(d: dict[str, Any], r: Reporter) -> None:
    words = [w.strip() for w in d.get("retryOn", "").split(",")]
    if "retriable-status-codes" in words and not any(w.isdigit() for w in words):
        r.warn("names no status, and so none is retried", "add some, e.g. 503", at=("retryOn",))
    if sum(w.isdigit() for w in set(words)) > MAX_RETRY_STATUSES:
        r.add(f"names more than {MAX_RETRY_STATUSES} statuses", at=("retryOn",))
    if "attempts" not in d and d:
        r.warn("without attempts Istio means 0: nothing is retried", "give attempts")


HTTP_RETRY: Final = Message(
    "HTTPRetry",
    {
        "attempts": Int(0, MAX_ATTEMPTS),
        "perTryTimeout": Duration(),
        "retryOn": Str(_retry_on),
        "retryRemoteLocalities": Bool(),
        "retryIgnorePreviousHosts": Bool(),
        "backoff": Duration(high=MAX_BACKOFF_MS),
    },
    rule=_retries,
)


DELEGATE: Final = Message(
    "Delegate", {"name": req(Str(fmt.object_name)), "namespace": Str(fmt.namespace_name)}
)


def _mirror(d: dict[str, Any], r: Reporter) -> None:
    if d.get("percentage", {}).get("value", 100) == 0:
        r.warn("mirrors nothing", "give percentage.value, or remove it")


HTTP_MIRROR: Final = Message(
    "HTTPMirrorPolicy", {"destination": req(DESTINATION), "percentage": PERCENT}, rule=_mirror
)
MAX_MIRRORS: Final = 4


def _mirrors(d: dict[str, Any], r: Reporter) -> None:
    for k in ("mirrorPercent", "mirror_percent"):
        if k in d:
            r.warn("is deprecated by Istio", "give mirrorPercentage: {value: ...}", at=(k,))
    if "mirror" in d and "mirrors" in d:
        r.add("contradicts mirrors", "list all of them in mirrors", at=("mirror",))
    for k in ("mirrorPercentage", "mirrorPercent", "mirror_percent"):
        if k in d and "mirror" not in d:
            r.add("needs mirror", "each of mirrors has its own percentage", at=(k,))
    if len(d.get("mirrors", ())) > MAX_MIRRORS:
        r.add(f"more than {MAX_MIRRORS} copies of a request", at=("mirrors",))


def _delegating(d: dict[str, Any], r: Reporter) -> None:
    for k in ("route", "redirect", "directResponse"):
        if d.get(k) is not None:
            r.add("is not possible beside delegate, as in Istio", at=(k,))


def _route(d: dict[str, Any], r: Reporter) -> None:
    """One action; what belongs to forwarding only with forwarding."""
    _mirrors(d, r)
    if "delegate" in d:
        _delegating(d, r)
        return
    forward, redirect, direct = d.get("route"), "redirect" in d, "directResponse" in d
    actions = [k for k in ("route", "redirect", "directResponse") if d.get(k) is not None]
    if len(actions) > 1:
        r.add(
            f"{' and '.join(actions)} contradict each other",
            "a rule has one of route, redirect, directResponse",
        )
        return
    if not forward and not redirect and not direct:
        r.add("needs one of route, redirect, directResponse, delegate")
        return
    if not forward:
        for k in ("rewrite", "retries", "timeout", "fault", "mirror", "mirrors"):
            if k in d:
                r.add(f"is possible with route only, not with {actions[0]}", at=(k,))
    else:
        weights = [w.get("weight", 0) for w in forward]
        if len(weights) > 1 and not sum(weights):
            r.add("all weights are 0: no destination would get a request", at=("route",))
        if sum(weights) > MAX_TOTAL_WEIGHT:
            r.add(f"the weights add up to more than {MAX_TOTAL_WEIGHT}", at=("route",))
        host = d.get("headers", {}).get("request", {}).get("set", {})
        if "authority" in d.get("rewrite", {}) and any(k.lower() in ("host", ":authority") for k in host):
            r.add("headers.request.set and rewrite.authority both set the host", at=("rewrite", "authority"))
    if "prefixRewrite" in d.get("redirect", {}):
        for i, m in enumerate(d.get("match", [{}]) or [{}]):
            if "prefix" not in m.get("uri", {}):
                r.add("needs a match by uri.prefix", f"match[{i}] has none", at=("redirect", "prefixRewrite"))
    if "timeout" in d and d["timeout"] and d.get("retries", {}).get("perTryTimeout", 0) > d["timeout"]:
        r.warn("is longer than timeout and has no effect", at=("retries", "perTryTimeout"))


HTTP_ROUTE: Final = Message(
    "HTTPRoute",
    {
        "name": Str(),
        "match": List(HTTP_MATCH),
        "route": List(HTTP_ROUTE_DESTINATION),
        "redirect": HTTP_REDIRECT,
        "directResponse": HTTP_DIRECT_RESPONSE,
        "delegate": DELEGATE,
        "rewrite": HTTP_REWRITE,
        "timeout": Duration(zero=True),
        "retries": HTTP_RETRY,
        "fault": FAULT,
        "mirror": DESTINATION,
        "mirrors": List(HTTP_MIRROR),
        "mirrorPercent": Int(0, 100),
        "mirror_percent": Int(0, 100),
        "mirrorPercentage": PERCENT,
        "corsPolicy": CORS_POLICY,
        "headers": HEADERS,
        "localRateLimit": LOCAL_RATE_LIMIT,
        "websocketUpgrade": gone("Istio has removed this field", "WebSocket needs no setting"),
        "appendHeaders": gone("Istio has removed this field", "use headers"),
        "appendRequestHeaders": gone("Istio has removed this field", "use headers.request.add"),
        "appendResponseHeaders": gone("Istio has removed this field", "use headers.response.add"),
        "removeRequestHeaders": gone("Istio has removed this field", "use headers.request.remove"),
        "removeResponseHeaders": gone("Istio has removed this field", "use headers.response.remove"),
    },
    rule=_route,
)


def _network(value: str, r: Reporter) -> None:
    address, slash, prefix = value.partition("/")
    if not fmt.is_ip(address):
        r.add(f"{clip(value)} is neither an IP address nor a network in CIDR notation")
    elif slash and not (
        prefix.isascii() and prefix.isdigit() and int(prefix[:4]) <= (128 if ":" in address else 32)
    ):
        r.add(f"{clip(value)}: the prefix is a number of bits, at most {128 if ':' in address else 32}")


_L4_MATCH: Final[dict[str, Any]] = {
    "destinationSubnets": List(Str(_network), low=1, high=1024),
    "port": PORT,
    "sourceSubnet": later("Istio gives it no effect"),
    "sourceLabels": Map(Str(fmt.label_value), fmt.label_key),
    "gateways": List(Str(fmt.gateway_ref)),
    "sourceNamespace": Str(fmt.namespace_name),
}


def _l4_route(d: dict[str, Any], r: Reporter) -> None:
    weights = [w.get("weight", 0) for w in d["route"]]
    if len(weights) > 1 and not sum(weights):
        r.add("all weights are 0: no destination would get a session", at=("route",))
    if sum(weights) > MAX_TOTAL_WEIGHT:
        r.add(f"the weights add up to more than {MAX_TOTAL_WEIGHT}", at=("route",))


ROUTE_DESTINATION: Final = Message(
    "RouteDestination", {"destination": req(DESTINATION), "weight": Int(0, MAX_WEIGHT)}
)
TCP_ROUTE: Final = Message(
    "TCPRoute",
    {
        "match": List(Message("L4MatchAttributes", _L4_MATCH)),
        "route": req(List(ROUTE_DESTINATION, low=1)),
    },
    rule=_l4_route,
)
TLS_ROUTE: Final = Message(
    "TLSRoute",
    {
        "match": req(
            List(
                Message(
                    "TLSMatchAttributes",
                    {
                        "sniHosts": req(List(Str(fmt.wildcard_host, empty=False), low=1, high=256)),
                        **_L4_MATCH,
                    },
                ),
                low=1,
            )
        ),
        "route": req(List(ROUTE_DESTINATION, low=1)),
    },
    rule=_l4_route,
)


def _virtual_service(d: dict[str, Any], r: Reporter) -> None:
    if not d.get("hosts"):
        if d.get("gateways"):
            r.add(
                "a VirtualService without hosts is for others to delegate to",
                "name the gateways there",
                at=("gateways",),
            )
        for i, route in enumerate(d.get("http", ())):
            if "delegate" in route:
                r.add("a delegate cannot delegate further, as in Istio", at=("http", i, "delegate"))
    if not d.get("http") and not d.get("tls") and not d.get("tcp"):
        r.add("needs at least one http, tls or tcp route", at=("http",))
    d.setdefault("http", [])  # read without asking wherever routes are
    if not d.get("hosts"):
        for k in ("tls", "tcp"):
            if d.get(k):
                r.add("a delegate has http routes only, as in Istio", at=(k,))
    seen: set[str] = set()
    for i, host in enumerate(d.get("hosts", ())):
        if host.lower() in seen:
            r.add(f"the host {host} is named twice", at=("hosts", i))
        seen.add(host.lower())
    for i, route in enumerate(d.get("http", ())):
        if i + 1 < len(d["http"]) and _takes_all(route):
            r.warn("is never reached", f"http[{i}] before it takes every request", at=("http", i + 1))
            break


def _takes_all(route: dict[str, Any]) -> bool:
    """A route without match, or with a match by the prefix / alone."""
    matches = route.get("match")
    return not matches or any(
        m.keys() - {"name", "ignoreUriCase"} == {"uri"} and m["uri"].get("prefix") == "/" for m in matches
    )


VIRTUAL_SERVICE: Final = Message(
    "VirtualService",
    {
        "hosts": List(Str(fmt.wildcard_host)),
        "gateways": List(Str(fmt.gateway_ref)),
        "http": List(HTTP_ROUTE),
        "tls": List(TLS_ROUTE),
        "tcp": List(TCP_ROUTE),
        "exportTo": EXPORT_TO,
    },
    rule=_virtual_service,
)
