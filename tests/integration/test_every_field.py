"""Traffic policy, field by field, from YAML to what a real edge does with it.

A field is proven by a test here that carries it in @proves, by SHOWN (what the running process says of a
field that decides about amounts or times), or ELSEWHERE by a test that is named. The last test fails for a
field of the schema that nothing proves, and for a test that is named and is not there.
"""

from __future__ import annotations

import concurrent.futures
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from fastmesh.model.schema import KINDS
from helpers import free_port, istio, wait_for
from helpers.app import App
from helpers.mesh import Answer, EdgeProxy, request
from integration.every_field import ELSEWHERE, FULL, HASHES, MATCHES, OLD, ROUTES, SHOWN
from unit.model.test_schema_fields import messages

F = TypeVar("F", bound=Callable[..., object])
PROVEN: dict[str, str] = {}
HERE = Path(__file__).parent


def proves(*fields: str) -> Callable[[F], F]:
    def note(test: F) -> F:
        PROVEN.update({name: test.__name__ for of in fields for name in of.split()})
        return test

    return note


class Site:
    """One edge with all of it, and two applications."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.a, self.b = App("a"), App("b")
        documents = [
            istio.gateway(istio.http(self.port)),
            istio.service("a", self.a.port),
            istio.service("b", self.b.port),
            istio.entry(
                "ab",
                "STATIC",
                f"{{address: 127.0.0.1, ports: {{http: {self.a.port}}}, labels: {{v: a}}}}, "
                f"{{address: 127.0.0.1, ports: {{http: {self.b.port}}}, labels: {{v: b}}}}",
            ),
            istio.document(
                "DestinationRule",
                "ab",
                'host: ab.local\nexportTo: ["*"]\nsubsets:\n'
                "- {name: a, labels: {v: a}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}\n"
                "- {name: b, labels: {v: b}}",
            ),
        ]
        match = "".join(
            f"- match:\n  - name: {name}\n    {spec % self.port if '%' in spec else spec}\n"
            f"  name: rule-{name}\n  directResponse: {{status: 200, body: {{string: {name}}}}}\n"
            for name, spec in MATCHES.items()
        )
        for name, http in {**ROUTES, "match": match}.items():
            documents.append(istio.routes(http, name, f"{name}.example"))
        rules = {
            **{name: f"loadBalancer: {{consistentHash: {spec}}}" for name, spec in HASHES.items()},
            "full": FULL,
            "old": OLD,
            "warm": "loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 8s}",
            "tcp-checked": "healthChecks: {interval: 1000s, timeout: 2s, tcpHealthCheck: {}}",
            "one": "connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}",
            "few": "connectionPool: {http: {http2MaxRequests: 1}}",
            "once": "connectionPool: {http: {maxRequestsPerConnection: 1}}",
        }
        for name, rule in rules.items():
            ports = (self.a.port, self.b.port) if name in HASHES else (self.a.port,)
            documents.append(istio.service(name, *ports))
            documents.append(istio.policy(name, rule))
            route = f"- route: [{{destination: {{host: {name}.local, port: {{number: 80}}}}}}]"
            documents.append(istio.routes(route, f"to-{name}", f"{name}.example"))
        # of two workers each may open a connection (test_breaker.py), and here one is to be waited for
        self.edge = EdgeProxy(directory, istio.text(*documents), "--concurrency", "1")
        self.edge.start()

    def get(self, name: str, path: str = "/", **options: Any) -> Answer:
        return request(self.port, f"{name}.example", path, **options)

    def explained(self, name: str) -> dict[str, Any]:
        url = quote(f"http://{name}.example:{self.port}/", safe="")
        status, body = self.edge.view(f"/explain?method=GET&url={url}")
        assert status == 200, body
        made: dict[str, Any] = json.loads(body)
        return made

    def pending(self, name: str) -> int:
        clusters = json.loads(self.edge.view("/clusters?format=json")[1])["clusters"]
        (found,) = (c for c in clusters if c["name"] == f"outbound|80||{name}.local")
        waiting: int = found["circuit_breakers"]["rq_pending"]
        return waiting

    def close(self) -> None:
        self.edge.process.kill()
        self.a.close()
        self.b.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("edge"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("path", "headers", "method", "rule"),
    [
        ("/exact", {}, "GET", "exact"),
        ("/exact/", {}, "GET", None),
        ("/prefix/x", {}, "GET", "prefix"),
        ("/re/42", {}, "GET", "regex"),
        ("/re/42x", {}, "GET", None),
        ("/cASE", {}, "GET", "case"),
        ("/Exact", {}, "GET", None),
        ("/s", {}, "GET", "scheme"),
        ("/m", {}, "PUT", "method"),
        ("/m", {}, "GET", None),
        ("/a", {}, "GET", "authority"),
        ("/h", {"x_user": "jo", "x_any": "x"}, "GET", "headers"),
        ("/h", {"x_user": "jo"}, "GET", None),
        ("/q?v=1", {}, "GET", "query"),
        ("/q?v=x", {}, "GET", None),
        ("/w", {}, "GET", "without"),
        ("/w", {"x_no": "1"}, "GET", None),
        ("/p", {}, "GET", "port"),
        ("/g", {}, "GET", "gateways"),
        ("/g2", {}, "GET", None),
    ],
)
@proves(
    "VirtualService.hosts VirtualService.gateways VirtualService.http HTTPRoute.name HTTPRoute.match "
    "HTTPMatchRequest.name HTTPMatchRequest.uri HTTPMatchRequest.scheme HTTPMatchRequest.method "
    "HTTPMatchRequest.authority HTTPMatchRequest.headers HTTPMatchRequest.port HTTPMatchRequest.gateways "
    "HTTPMatchRequest.queryParams HTTPMatchRequest.ignoreUriCase HTTPMatchRequest.withoutHeaders "
    "StringMatch.exact StringMatch.prefix StringMatch.regex HTTPRoute.directResponse"
)
def test_a_match(site: Site, path: str, headers: dict[str, str], method: str, rule: str | None) -> None:
    answer = site.get("match", path, method=method, **headers)
    if rule is None:
        assert answer.status == 404
    else:
        assert (answer.status, answer.body.decode()) == (200, rule)


@pytest.mark.parametrize("name", ["mirror", "mirrors", "mirror3", "mirror4"])
@proves(
    "HTTPRoute.mirror HTTPRoute.mirrors HTTPRoute.mirrorPercentage HTTPRoute.mirrorPercent "
    "HTTPRoute.mirror_percent HTTPMirrorPolicy.destination HTTPMirrorPolicy.percentage Percent.value"
)
def test_a_mirror(site: Site, name: str) -> None:
    assert site.get(name, f"/{name}").json["app"] == "a"
    wait_for(lambda: any(s["path"] == f"/{name}" for s in site.b.seen), 10, "the copy")


@proves(
    "HTTPRoute.corsPolicy CorsPolicy.allowOrigin CorsPolicy.allowOrigins CorsPolicy.allowMethods "
    "CorsPolicy.allowHeaders CorsPolicy.exposeHeaders CorsPolicy.maxAge CorsPolicy.allowCredentials "
    "CorsPolicy.unmatchedPreflights"
)
def test_cors(site: Site) -> None:
    ask = {"method": "OPTIONS", "access_control_request_method": "PUT"}
    asked = site.a.requests
    headers = site.get("cors", origin="https://good.example", **ask).headers
    assert headers["access-control-allow-origin"] == "https://good.example"
    assert headers["access-control-allow-methods"] == "GET,PUT"
    assert headers["access-control-allow-headers"] == "x-one,x-two"
    assert headers["access-control-max-age"] == "90"
    assert headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in site.get("cors", origin="https://bad.example", **ask).headers
    assert site.a.requests == asked
    headers = site.get("cors", origin="https://good.example").headers
    assert headers["access-control-expose-headers"] == "x-three"
    assert site.get("cors-old", origin="https://old.example").headers["access-control-allow-origin"]


@proves(
    "HTTPRoute.redirect HTTPRedirect.uri HTTPRedirect.authority HTTPRedirect.port HTTPRedirect.derivePort "
    "HTTPRedirect.scheme HTTPRedirect.redirectCode HTTPRedirect.prefixRewrite"
)
def test_a_redirect(site: Site) -> None:
    answer = site.get("redirect", "/uri")
    assert (answer.status, answer.headers["location"]) == (308, "https://other.example:8443/new")
    answer = request(site.port, f"redirect.example:{site.port}", "/derived/x")
    assert (answer.status, answer.headers["location"]) == (
        301,
        f"http://redirect.example:{site.port}/made/x",
    )


@proves(
    "HTTPRoute.rewrite HTTPRewrite.uri HTTPRewrite.authority HTTPRewrite.uriRegexRewrite RegexRewrite.match "
    "RegexRewrite.rewrite"
)
def test_a_rewrite(site: Site) -> None:
    got = site.get("rewrite", "/old/x").json
    assert (got["path"], got["headers"]["host"]) == ("/new/x", "made.example")
    assert site.get("rewrite", "/re/one/two").json["path"] == "/two/one"


@proves(
    "HTTPRoute.headers HTTPRouteDestination.headers Headers.request Headers.response HeaderOperations.set "
    "HeaderOperations.add HeaderOperations.remove"
)
def test_headers(site: Site) -> None:
    answer = site.get("headers", "/", x_gone="1", x_set="0")
    sent = answer.json["headers"]
    assert (sent["x-set"], sent["x-add"], sent["x-of-destination"]) == ("1", "2", "4")
    assert "x-gone" not in sent
    assert (answer.headers["x-app"], answer.headers["x-more"], answer.headers["x-back"]) == ("made", "3", "5")


@proves("HTTPDirectResponse.status HTTPDirectResponse.body HTTPBody.string HTTPBody.bytes")
def test_a_direct_response(site: Site) -> None:
    assert site.get("direct", "/string")[::2] == (418, b"tea")
    assert site.get("direct")[::2] == (200, b"\0\1\2")
    site.edge.logged(lambda e: e["route_name"] == "of-string")


@proves("HTTPRoute.timeout")
def test_a_timeout(site: Site) -> None:
    assert site.get("timeout", "/sleep/5").status == 504


@proves(
    "HTTPRoute.retries HTTPRetry.attempts HTTPRetry.retryOn HTTPRetry.perTryTimeout HTTPRetry.backoff "
    "HTTPRetry.retryRemoteLocalities HTTPRetry.retryIgnorePreviousHosts"
)
def test_retries(site: Site) -> None:
    before = site.a.requests
    assert site.get("retries", "/status/503").status == 503
    assert site.a.requests == before + 3
    before = site.a.sleeping
    assert site.get("per-try", "/sleep/2").status == 504
    assert site.a.sleeping == before + 2
    plan = site.explained("retries")["action"]["retries"]
    assert (plan["backoff_base_ms"], plan["remote_localities"], plan["same_endpoint"]) == (1, False, False)
    plan = site.explained("remote")["action"]["retries"]
    assert (plan["remote_localities"], plan["same_endpoint"]) == (True, True)


@pytest.mark.parametrize("name", ["delay", "delay-old"])
@proves(
    "HTTPRoute.fault HTTPFaultInjection.delay HTTPFaultInjectionDelay.fixedDelay "
    "HTTPFaultInjectionDelay.percentage HTTPFaultInjectionDelay.percent"
)
def test_a_delay(site: Site, name: str) -> None:
    began = time.monotonic()
    assert site.get(name, f"/{name}").status == 200
    assert time.monotonic() - began >= 0.19  # it cannot be earlier
    line = site.edge.logged(lambda e: e["path"] == f"/{name}")
    assert line["response_flags"] == "DI"


@proves(
    "HTTPFaultInjection.abort HTTPFaultInjectionAbort.httpStatus HTTPFaultInjectionAbort.grpcStatus "
    "HTTPFaultInjectionAbort.percentage"
)
def test_an_abort(site: Site) -> None:
    assert site.get("abort").status == 555
    call = site.get("abort-grpc", method="POST", content_type="application/grpc", te="trailers")
    assert (call.status, call.headers["grpc-status"]) == (200, "14")


@proves(
    "HTTPRoute.localRateLimit HTTPLocalRateLimit.tokenBucket HTTPLocalRateLimit.perIdentity "
    "TokenBucket.maxTokens TokenBucket.tokensPerFill TokenBucket.fillInterval"
)
def test_a_rate_limit(site: Site) -> None:
    assert [site.get("limit").status for _ in range(3)] == [200, 429, 429]
    limits = site.explained("limit")["action"]["rate_limits"]
    assert {(limit["most"], limit["fill"], limit["fill_ms"]) for limit in limits} == {
        (2, 1, 3_600_000),
        (1, 1, 3_600_000),
    }


@proves(
    "HTTPRoute.route HTTPRouteDestination.destination HTTPRouteDestination.weight Destination.host "
    "Destination.subset Destination.port PortSelector.number DestinationRule.host DestinationRule.subsets "
    "Subset.name Subset.labels Subset.trafficPolicy DestinationRule.exportTo"
)
def test_destinations(site: Site) -> None:
    assert {site.get("weights").json["app"] for _ in range(20)} == {"a"}
    (destination,) = site.explained("weights")["action"]["destinations"]
    assert destination["cluster"]["name"] == "outbound|80|a|ab.local"
    assert destination["cluster"]["balancing"] == "RANDOM"


@proves(
    "LoadBalancerSettings.consistentHash ConsistentHashLB.httpHeaderName ConsistentHashLB.minimumRingSize "
    "ConsistentHashLB.httpQueryParameterName ConsistentHashLB.ringHash ConsistentHashLB.httpCookie "
    "ConsistentHashLB.maglev ConsistentHashLB.useSourceIp HTTPCookie.name HTTPCookie.path HTTPCookie.ttl "
    "DestinationRule.trafficPolicy"
)
def test_hashes(site: Site) -> None:
    def homes(name: str, path: str = "/", **headers: str) -> set[str]:
        return {site.get(name, path, **headers).json["app"] for _ in range(5)}

    by_header = [homes("hash-header", x_key=str(i)) for i in range(20)]
    by_query = [homes("hash-query", f"/?key={i}") for i in range(20)]
    by_cookie = [homes("hash-cookie", cookie=f"sticky={i}") for i in range(20)]
    for found in (by_header, by_query, by_cookie):
        assert {len(each) for each in found} == {1}
        assert len(Counter(next(iter(each)) for each in found)) == 2
    assert len(homes("hash-source")) == 1
    made = site.get("hash-cookie").headers["set-cookie"]
    assert re.match(r"sticky=[^;]+; Max-Age=60; Path=/p", made, re.I), made


@proves("HTTPSettings.http1MaxPendingRequests HTTPSettings.http2MaxRequests TCPSettings.maxConnections")
def test_limits(site: Site) -> None:
    # one: a request holds the only connection, one waits for it. few: one request in all.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        try:
            before = site.a.sleeping
            held = [pool.submit(site.get, name, "/hold") for name in ("one", "few")]
            wait_for(lambda: site.a.sleeping == before + 2, 10, "the requests that are held")
            held.append(pool.submit(site.get, "one", "/waits"))
            wait_for(lambda: site.pending("one"), 10, "the request that waits")
            assert [site.get(name).status for name in ("one", "few")] == [503, 503]
        finally:
            site.a.release.set()
        assert [each.result(20).status for each in held] == [200, 200, 200]
    site.a.release.clear()
    refused = wait_for(lambda: [e for e in site.edge.lines() if e["response_flags"] == "UO"], 10, "the log")
    assert {e["authority"] for e in refused} == {"one.example", "few.example"}


@proves("HTTPSettings.maxRequestsPerConnection")
def test_a_request_each(site: Site) -> None:
    before = site.edge.stat("up_cx_total")
    for _ in range(3):
        assert site.get("once").status == 200
    assert site.edge.stat("up_cx_total") == before + 3


@pytest.mark.parametrize("field", SHOWN)
def test_what_the_process_says_of_it(site: Site, field: str) -> None:
    name, place, wanted = SHOWN[field]
    (destination,) = site.explained(name)["action"]["destinations"]
    found: Any = destination["cluster"]
    for part in place.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert found == wanted


def test_every_field_is_proven() -> None:
    elsewhere = {name: test for names, test in ELSEWHERE.items() for name in names.split()}
    for test in set(elsewhere.values()):
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name}\b", (HERE / file).read_text(), re.M), test
    for kind in ("VirtualService", "DestinationRule", "LocalRateLimit"):
        for message in messages(KINDS[kind][1]):
            fields = {f"{message.name}.{name}" for name, field in message.fields.items() if field.type}
            missing = fields - PROVEN.keys() - SHOWN.keys() - elsewhere.keys() - {"VirtualService.exportTo"}
            assert not missing, missing
