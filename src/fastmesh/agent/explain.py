"""What one request would get from a snapshot, and why: the question put together, the workers' own answer
(_core/proxy/explain) completed with what the snapshot does not hold: where a route comes from, how endpoints
do.

Shared by the admin view and `fastmesh explain -f`. Matches nothing itself. Loaded when somebody asks.
"""

from __future__ import annotations

import time

from fastmesh._core.proxy import explain as core
from fastmesh.compile.fragment import place_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from fastmesh.agent.main import Agent
    from fastmesh.model.ir import Config, VirtualHost

PORTS = {"http": 80, "https": 443}
SERVED = ("direct", "redirect", "https_redirect")  # outcomes of a request that is answered as config says


class Usage(ValueError):
    """A question that cannot be asked."""


class NotReady(RuntimeError):
    """There is no config to ask."""


class Question:
    """A request, and by which listener it comes. `headers` are "name: value" texts."""

    def __init__(
        self,
        method: str,
        url: str,
        headers: Sequence[str] = (),
        *,
        listener: str = "",
        port: int = 0,
        inbound: bool = False,
        principal: str = "",
    ) -> None:
        if sum((bool(listener), bool(port), inbound)) > 1:
            raise Usage("one of listener, port and inbound is enough")
        self.method = method
        self.identity = spiffe_id(principal)
        self.listener, self.port, self.inbound = listener, port, inbound
        scheme, colon, rest = url.partition("://")
        self.scheme = scheme.lower()
        if not colon or self.scheme not in PORTS:
            raise Usage(f"{url!r} is no URL: write it whole, as in http://reviews:9080/path")
        end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
        self.authority, self.target = rest[:end], rest[end:]
        if not self.target.startswith("/"):
            self.target = f"/{self.target}"
        if "#" in rest:
            raise Usage("a fragment (#...) is never sent: leave it out")
        if not self.authority:
            raise Usage(f"{url!r} names no host")
        if "@" in self.authority:
            raise Usage("user and password of a URL are not sent in it: use an Authorization header")
        self.headers = [split_header(text) for text in headers]
        hosts = [value for name, value in self.headers if name.lower() == "host"]
        if len(hosts) > 1:
            raise Usage("more than one Host")
        if hosts:
            self.authority = hosts[0]
            self.headers = [pair for pair in self.headers if pair[0].lower() != "host"]
        name, _, digits = rest[:end].rpartition(":")
        self.url_port = int(digits) if name and digits.isdecimal() else PORTS[self.scheme]
        self.head = self._head()

    def _head(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.authority}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        for line in lines:
            if not {"\r", "\n", "\0"}.isdisjoint(line):
                raise Usage("a line end or NUL in the request")
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    def shown(self) -> dict[str, Any]:
        path, _, query = self.target.partition("?")
        return {
            "method": self.method,
            "scheme": self.scheme,
            "authority": self.authority,
            "path": path,
            "query": query,
            "headers": [list(pair) for pair in self.headers],
        }


def spiffe_id(principal: str) -> bytes:
    """The caller's identity, which policies write without the scheme."""
    if principal and not principal.startswith("spiffe://"):
        principal = f"spiffe://{principal}"
    return principal.encode("utf-8", "surrogateescape")


def split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise Usage(f"{text!r} is no header: write -H 'name: value'")
    return name, value.strip(" \t")


def pick_listener(question: Question, there: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """By which listener the request comes; Usage with those that there are when that is not clear."""
    if question.listener:
        fit = [each for each in there if each["name"] == question.listener]
    elif question.inbound:
        fit = [each for each in there if each["kind"] == "inbound"]
    elif question.port:
        fit = [each for each in there if each["port"] == question.port]
    else:
        there = [each for each in there if each["protocol"] == "http"]
        fit = [each for each in there if each["kind"] == "outbound"]
        if not fit:
            gates = [each for each in there if each["kind"] == "gateway"]
            fit = [each for each in gates if each["port"] == question.url_port]
            if not fit:
                secure = question.scheme == "https"
                fit = [each for each in gates if (each["tls_mode"] != "disable") == secure]
    if len(fit) == 1:
        return fit[0]
    known = ", ".join(f"{each['name']} ({each['kind']}, port {each['port']})" for each in there) or "none"
    why = "more than one listener fits" if fit else "no listener fits"
    raise Usage(f"{why}: choose one with --listener NAME or --port N; there are: {known}")


def by_tls(question: Question, listener: Mapping[str, Any]) -> bool:
    """Whether the request comes by TLS."""
    mode = listener["tls_mode"]
    secure = question.scheme == "https"
    if mode == "disable" and secure:
        raise Usage(f"listener {listener['name']} takes no TLS: ask for an http:// URL")
    if listener["kind"] == "inbound" and mode == "strict":
        return True  # of a peer in the mesh, whose application said http://
    return secure


def ask(snapshot: bytes, question: Question, config: Config | None = None) -> dict[str, Any]:
    """The answer. `config`: what the snapshot was packed from, for the names that it does not hold."""
    listener = pick_listener(question, core.listeners(snapshot))
    if listener["protocol"] != "http":
        raise Usage(
            f"listener {listener['name']} carries TCP: only HTTP requests are explained; its routes are in "
            "the config dump"
        )
    tls = by_tls(question, listener)
    found = core.explain(snapshot, listener["name"], question.head, tls, question.identity)
    found["request"] = question.shown()
    found["request"]["tls"] = tls
    if config is not None and "virtual_host" in found:
        add_sources(found, config)
    judge(found)
    return found


def add_sources(found: dict[str, Any], config: Config) -> None:
    """Virtual hosts have the order of the config's tables: so its routes are found by their indexes."""
    hosts: list[VirtualHost] = [host for table in config["tables"] for host in table["virtual_hosts"]]
    host = hosts[found["virtual_host"]["index"]]
    found["virtual_host"]["domains"] = list(host["domains"])
    places = host.get("places", "").split()
    for route in [*found["passed"], *([found["route"]] if "route" in found else [])]:
        source = host["routes"][route["index"]].get("origin")
        if not source and places:
            source = place_text(host["source"], places[route["index"]])
        if source:
            route["source"] = source


def destinations(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = found.get("action", {}).get("destinations", [])
    return made


def judge(found: dict[str, Any]) -> None:
    """`served`: a route answers it, or it would be sent to an endpoint of one of its destinations."""
    found["served"] = found["outcome"] in SERVED
    if found["outcome"] == "forward":
        found["served"] = any("sent" in dest and dest["weight"] for dest in destinations(found))


def ask_agent(agent: Agent, query: Mapping[str, str]) -> dict[str, Any]:
    """The answer of a running proxy. Several headers stand in `header`, a line each."""
    port = query.get("port", "")
    if "url" not in query:
        raise Usage("url is missing: /explain?method=GET&url=http://HOST/PATH")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise Usage(f"port: {port!r} is no number from 1 to 65535")
    question = Question(
        query.get("method", "GET"),
        query["url"],
        [line for line in query.get("header", "").split("\n") if line],
        listener=query.get("listener", ""),
        port=int(port or 0),
        inbound=query.get("inbound", "") not in ("", "0", "false"),
        principal=query.get("principal", ""),
    )
    snapshot = agent.segment.current_bytes()
    if not snapshot:
        raise NotReady("the proxy has no config yet: see /ready")
    found = ask(snapshot, question, agent.publisher.config)
    add_states(agent.segment, found, snapshot, question, time.monotonic_ns())
    judge(found)
    return found


def add_states(segment: Any, found: dict[str, Any], snapshot: bytes, question: Question, now: int) -> None:
    """How the endpoints of all destinations do, and what that makes of the request."""
    for dest in destinations(found):
        cluster = dest["cluster"]
        if cluster is None:
            continue
        add_state(segment, cluster, now)
        most = cluster["limits"]["max_requests"]
        why = ""
        if most and cluster["in_use"]["active"] >= most:
            why = "overflow"
        elif not any(endpoint["used"] for endpoint in cluster["endpoints"]):
            why = "no_healthy"
        if why and "sent" in dest:
            where = found["listener"]["name"]
            tls = found["request"]["tls"]
            dest["answer"] = core.refusal(snapshot, where, question.head, tls, why, question.identity)
            del dest["sent"]


def add_state(segment: Any, cluster: dict[str, Any], now: int) -> None:
    """What the workers use of the cluster's limits now, and which endpoints they would use (policy/lb)."""
    from fastmesh._core.shm import clusters as cells
    from fastmesh.agent.views import outlier_state

    used = cells.stats(segment, cluster["cell"])
    cluster["in_use"] = used
    n = len(cluster["endpoints"])
    watched = cluster["outlier_detection"] is not None
    least = cluster["outlier_detection"]["min_health_percent"] if watched else 0
    panic = used["ejected"] > 0 and max(0, n - used["ejected"]) * 100 < least * n
    for endpoint in cluster["endpoints"]:
        endpoint |= outlier_state(segment, watched, endpoint["cell"], now)
        endpoint["in_flight"] = segment.endpoint_stats(endpoint["cell"])["active"]
    # one whose time is over may be tried; without a rule one that is ejected is better than none
    everyone = panic or (not watched and all(each["ejected_ms"] for each in cluster["endpoints"]))
    for endpoint in cluster["endpoints"]:
        endpoint["used"] = everyone or not endpoint["ejected_ms"]
    cluster["panic"] = panic
