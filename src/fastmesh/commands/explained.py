"""The answer of `fastmesh explain` as text for people. Knows the answer's form (agent/explain.py) and nothing
of how it was found.

What an action and a cluster have is in tables, a line a field: what no line speaks of is shown as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from fastmesh.compile.tables import RETRY_ON

Part = dict[str, Any]
# What a field is in text: nothing, a line, or several.
Line = Callable[[Any, Part], str | list[str]]

BOLD, DIM, GREEN, RED = "1", "2", "32", "31"
WIDTH = 14  # of the column of labels
# Of the routes that were passed over and of a cluster's endpoints: more are counted; JSON has all.
MOST_LINES = 50
MOST_NAMES = 4  # of a virtual host, likewise
OPS = {"exact": "is", "prefix": "begins with", "suffix": "ends with", "regex": "matches the regex"}
PER_MILLION = 10_000  # in a percent


# --- words


def span(ms: int) -> str:
    for unit, size in (("h", 3_600_000), ("min", 60_000)):
        if ms >= size and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms} ms"


def percent(ppm: int) -> str:
    return f"{ppm / PER_MILLION:g} %"


def bound(n: int) -> str:
    return str(n) if n else "any number of"


def listed(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def path_text(path: Part) -> str:
    if path["op"] == "any":
        return "any path"
    how = "is or is below" if path["op"] == "path_prefix" else OPS.get(path["op"], path["op"])
    return f"path {how} {path['value'] or '/'}" + (" (any case)" if path["ignore_case"] else "")


def condition_text(condition: Part) -> str:
    what = condition["on"] + (f" {condition['name']}" if condition["name"] else "")
    how = OPS.get(condition["op"], "")
    text = f"{what} {how} {condition['value']!r}" if how else f"{what} is there"
    if condition["ignore_case"]:
        text += " (any case)"
    return f"not ({text})" if condition["negate"] else text


def rule_text(route: Part) -> str:
    return ", ".join([path_text(route["path"]), *map(condition_text, route["conditions"])])


def failed_text(route: Part) -> str:
    failed, have = route["failed"], route["have"]
    if failed == "path":
        return f"{path_text(route['path'])}: it is {have}"
    condition = route["conditions"][failed]
    if condition["on"] in ("port", "scheme"):
        return condition_text(condition)
    return f"{condition_text(condition)}: " + ("there is none" if have is None else f"it is {have!r}")


def name_of(route: Part) -> str:
    parts = [f"[{route['index']}]", route["name"], f"({route['source']})" if "source" in route else ""]
    return " ".join(filter(None, parts))


def answer_text(answer: Part) -> str:
    if not answer["status"]:
        return "the connection is closed without an answer"
    fields = {name.lower(): value for name, value in answer["headers"]}
    why = fields.get("grpc-message") or answer["body"].strip()
    status = f"{answer['status']} {' '.join(answer['flags'])}".strip()
    if "grpc-status" in fields:
        status += f", grpc-status {fields['grpc-status']}"
    return f"{status}: {why} ({answer['details']})" if why else status


# --- fields of an action


def timeout_text(ms: int, action: Part) -> str:
    text = span(ms) if ms else "none"
    left = {dest["left_ms"] for dest in action["destinations"] if "left_ms" in dest} - {ms}
    return f"{text}; this request asks for {span(left.pop())}" if left else text


def retries_text(plan: Part, action: Part) -> str | list[str]:
    if not plan["attempts"]:
        return "none"
    if not all(dest.get("repeatable", True) for dest in action["destinations"]):
        return "none: this request cannot be sent again"
    on = [name for name, bit in RETRY_ON.items() if plan["retry_on"] & bit]
    statuses = f" {plan['statuses']}" if plan["statuses"] else ""
    tries = f"{span(plan['per_try_timeout_ms'])} a try" if plan["per_try_timeout_ms"] else "no limit of a try"
    return [
        f"up to {plan['attempts']}, on {', '.join(on) or 'nothing'}{statuses}",
        listed(
            tries,
            f"back-off {span(plan['backoff_base_ms'])} to {span(plan['backoff_most_ms'])}",
            "also on the endpoint that failed" if plan["same_endpoint"] else "another endpoint first",
            "also in other localities" if plan["remote_localities"] else "",
        ),
    ]


def rewrite_text(rewrite: Part, action: Part) -> list[str]:
    made = []
    if rewrite["replaces"] == "prefix":
        made.append(f"the first {rewrite['matched']} bytes of the path become {rewrite['path']}")
    elif rewrite["replaces"] == "matches":
        made.append(f"each match of {rewrite['regex']} in the path becomes {rewrite['path']}")
    elif rewrite["replaces"]:
        made.append(f"path becomes {rewrite['path']}")
    if rewrite["authority"]:
        made.append(f"host becomes {rewrite['authority']}")
    return made


def fault_text(fault: Part, action: Part) -> list[str]:
    made = []
    if fault["delay_ppm"]:
        made.append(f"{percent(fault['delay_ppm'])} wait {span(fault['delay_ms'])}")
    if fault["abort_ppm"]:
        grpc = "" if fault["abort_grpc"] is None else f" (gRPC: {fault['abort_grpc']})"
        made.append(f"{percent(fault['abort_ppm'])} are answered {fault['abort_status']}{grpc}, FI")
    return made


def mirrors_text(mirrors: list[Part], action: Part) -> list[str]:
    return [f"{percent(each['ppm'])} to {each['cluster'] or 'no such cluster'}" for each in mirrors]


def cors_text(cors: Part | None, action: Part) -> str | list[str]:
    if cors is None:
        return ""
    who = [f"{each['op']} {each['value']}".strip() for each in cors["origins"]]
    return [
        f"origins: {', '.join(who) or 'none'}" + (", with credentials" if cors["credentials"] else ""),
        listed(
            f"methods {cors['methods']}" if cors["methods"] else "",
            f"headers {cors['headers']}" if cors["headers"] else "",
            f"exposed {cors['expose']}" if cors["expose"] else "",
            f"kept for {cors['max_age']} s" if cors["max_age"] else "",
            "preflights of others " + ("go on" if cors["forward"] else "are answered here"),
        ),
    ]


def rate_limits_text(limits: list[Part], action: Part) -> list[str]:
    return [
        f"{each['most']} at once, {each['fill']} more each {span(each['fill_ms'])}, "
        + ("for each caller" if each["per"] == "identity" else "for all together")
        for each in limits
    ]


def hdr_ops(ops: list[Part], part: Part) -> list[str]:
    return [f"{op['op']} {op['name']}" + ("" if op["op"] == "remove" else f": {op['value']}") for op in ops]


ANSWERED: dict[str, tuple[str, Line]] = {
    "cors": ("CORS", cors_text),
    "rate_limits": ("rate limits", rate_limits_text),
}
FORWARD: dict[str, tuple[str, Line]] = {
    "rewrite": ("rewrite", rewrite_text),
    "request_headers": ("request", hdr_ops),
    "response_headers": ("response", hdr_ops),
    "timeout_ms": ("timeout", timeout_text),
    "retries": ("retries", retries_text),
    "fault": ("fault", fault_text),
    "mirrors": ("mirrors", mirrors_text),
    **ANSWERED,
}

# --- fields of a cluster


def balancing_text(name: str, cluster: Part) -> str:
    parts = [name]
    if cluster["hash"]:
        on = cluster["hash"]
        parts.append(f"by {on['on']} {on['name']}".strip())
        if on["on"] == "cookie":
            parts.append("which is made if it is missing" if on["ttl_s"] is not None else "")
    if name == "PEAK_EWMA":
        parts.append(f"decay {span(cluster['decay_ms'])}")
    if cluster["warm"]:
        warm = cluster["warm"]
        parts.append(f"new endpoints warm up for {span(warm['ms'])} from {warm['least_percent']} %")
    return listed(*parts)


def tls_text(tls: Part | None, cluster: Part) -> str:
    if tls is None or not any(each["tls"] for each in cluster["endpoints"]):
        return ""
    sans = tls["sans"]
    return listed(
        f"sni {tls['sni']}" if tls["sni"] else "no sni",
        "any name that its roots vouch for" if sans is None else f"accepts {', '.join(sans) or 'nobody'}",
    )


def connection_text(made: Part, cluster: Part) -> str:
    alive = made["keepalive"]
    return listed(
        "to the address that was called" if cluster["original_dst"] else "",
        {"h2": "HTTP/2", "as_client": "HTTP as the client's", "http1": "HTTP/1.1"}[cluster["protocol"]],
        f"connect timeout {span(made['connect_timeout_ms'])}",
        f"idle timeout {span(made['idle_timeout_ms'])}" if made["idle_timeout_ms"] else "",
        f"{made['max_requests']} requests each" if made["max_requests"] else "",
        f"{made['max_streams']} streams each" if made["max_streams"] else "",
        f"at most {span(made['max_age_ms'])} old" if made["max_age_ms"] else "",
        f"TCP keep-alive {alive['time_s']} s" if alive else "",
    )


# Of a limit: what it is of, and what of in_use it bounds.
LIMITS = {
    "max_connections": ("connections", "connections"),
    "max_pending": ("pending", "pending"),
    "max_requests": ("requests", "active"),
    "max_retries": ("retries", "retries"),
}


def limits_text(limits: Part, cluster: Part) -> str:
    used = cluster.get("in_use", {})
    shown = [
        (f"{used[key]} of " if used else "") + f"{bound(limits[name])} {word}"
        for name, (word, key) in LIMITS.items()
        if limits[name] or name != "max_retries" or not limits["budget_ppm"]
    ]
    if limits["budget_ppm"]:
        retrying = f" ({used['retries']} now)" if used else ""
        share = percent(limits["budget_ppm"])
        shown.append(f"retries {share} of requests, at least {limits['budget_least']}{retrying}")
    return listed(*shown)


def outlier_text(rule: Part | None, cluster: Part) -> str | list[str]:
    if rule is None:
        return ""
    rows = (
        ("consecutive_5xx", "5xx"),
        ("consecutive_gateway", "gateway errors"),
        ("consecutive_local", "local failures"),
    )
    counts = [f"{rule[key]} {word}" for key, word in rows if rule[key]]
    least = rule["min_health_percent"]
    rate, share = rule["success_rate"], rule["failure_percentage"]
    return [
        f"ejected after {' or '.join(counts) or 'nothing'} in a row",
        listed(
            f"or {rate['stdev_factor']:g} deviations below the mean success rate" if rate else "",
            f"or with {share['percent']} % of failures" if share else "",
            f"in {span(rule['interval_ms'])}" if rate or share else "",
        ),
        listed(
            f"for {span(rule['base_ms'])} to {span(rule['most_ms'])}",
            f"at most {rule['max_percent']} % of the endpoints",
            f"all are used when fewer than {least} % are healthy" if least else "",
            "now: all are used" if cluster.get("panic") else "",
        ),
    ]


def health_text(checks: Part | None, cluster: Part) -> str | list[str]:
    if checks is None:
        return ""
    what = {"HTTP": checks["path"], "gRPC": checks["service"], "TCP": ""}[checks["kind"]]
    return [
        f"{checks['kind']} {what}".strip() + (f" at port {checks['port']}" if checks["port"] else ""),
        listed(
            f"every {span(checks['interval_ms'])} (up to {checks['jitter_percent']} % later)",
            f"within {span(checks['timeout_ms'])}",
            f"unhealthy after {checks['unhealthy']}, healthy again after {checks['healthy']}",
        ),
    ]


def levels_text(levels: list[Part], cluster: Part) -> str:
    if not levels:
        return ""
    sizes = ", ".join(str(level["endpoints"]) for level in levels)
    if levels[0]["share"]:
        shares = ", ".join(f"{level['share']} %" for level in levels)
        return f"{sizes} endpoints, which get {shares}"
    return f"{sizes} endpoints, the nearest first"


def nothing(value: Any, part: Part) -> str:
    return ""  # shown elsewhere


CLUSTER: dict[str, tuple[str, Line]] = {
    "balancing": ("balancing", balancing_text),
    "levels": ("levels", levels_text),
    "health_checks": ("health checks", health_text),
    "tls": ("TLS", tls_text),
    "connection": ("connection", connection_text),
    "limits": ("limits", limits_text),
    "outlier_detection": ("outliers", outlier_text),
    **dict.fromkeys(
        ("name", "service", "cell", "hash", "decay_ms", "warm", "protocol", "original_dst"), ("", nothing)
    ),
    **dict.fromkeys(("endpoints", "in_use", "panic"), ("", nothing)),
}
OF_ACTION = {**FORWARD, "kind": ("", nothing), "destinations": ("", nothing)}


def authorization_text(found: Part) -> str:
    """Which policy and rule decide."""
    said = f"{'denied' if found['denied'] else 'allowed'} by {found['rule'] or 'no rule'}"
    if found["audited"]:
        said += f"; audited by {found['audited']}"
    if found["dry_run"]:
        said += f"; those only tried: {found['dry_run']} by {found['dry_run_rule'] or 'no rule'}"
    return said


class Text:
    """Lines with a label each. `terminal`: colour, unless NO_COLOR says otherwise."""

    def __init__(self, terminal: bool = False) -> None:
        self.colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.lines: list[str] = []

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def line(self, label: str, text: str, code: str = "") -> None:
        # what config and clients say must not steer a terminal
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        self.lines.append(f"{self.paint(label.ljust(WIDTH), DIM)} {self.paint(text, code) if code else text}")

    def some(self, label: str, lines: list[tuple[str, str]]) -> None:
        for text, code in lines[:MOST_LINES]:
            self.line(label, text, code)
            label = ""
        if len(lines) > MOST_LINES:
            self.line(label, f"... and {len(lines) - MOST_LINES} more (-o json)")

    def fields(self, part: Part, table: dict[str, tuple[str, Line]], indent: str = "") -> None:
        """In the table's order; then what it does not know, as it is."""
        for key, (label, text_of) in table.items():
            if key in part:
                text = text_of(part[key], part)
                self.some(
                    indent + label,
                    [(each, "") for each in ([text] if isinstance(text, str) else text) if each],
                )
        for key, value in part.items():
            if key not in table and value:
                self.line(f"{indent}{key}", value if isinstance(value, str) else json.dumps(value))

    def of(self, found: Part) -> str:
        request, listener = found["request"], found["listener"]
        query = f"?{request['query']}" if request["query"] else ""
        url = f"{request['scheme']}://{request['authority']}{request['path']}{query}"
        self.line("request", f"{request['method']} {url}{', a gRPC call' if found.get('grpc') else ''}", BOLD)
        self.line(
            "listener",
            f"{listener['name']} ({listener['kind']}, port {listener['port']}, TLS {listener['tls_mode']})",
        )
        if "authorization" in found:
            self.line("authorization", authorization_text(found["authorization"]))
        if "virtual_host" in found:
            host = found["virtual_host"]
            domains = host.get("domains", [])
            more = f" and {len(domains) - MOST_NAMES} more" if len(domains) > MOST_NAMES else ""
            names = f" (domains {', '.join(domains[:MOST_NAMES])}{more})" if domains else ""
            self.line("virtual host", f"{host['name']}{names}")
        passed = [f"{name_of(r)} does not match: {failed_text(r)}" for r in found["passed"]]
        self.some("passed over", [(text, "") for text in passed])
        if "route" in found:
            self.line("route", name_of(found["route"]), BOLD)
            self.line("rule", rule_text(found["route"]))
            self.action(found["action"])
        self.outcome(found)
        return "\n".join(self.lines) + "\n"

    def action(self, action: Part) -> None:
        if action["kind"] != "forward":
            self.fields({key: action[key] for key in ("request_headers", "response_headers")}, FORWARD)
            return
        for dest in action["destinations"]:
            self.destination(dest)
        self.fields(action, OF_ACTION)

    def destination(self, dest: Part) -> None:
        cluster, total = dest["cluster"], dest["total_weight"]
        share = f"{100 * dest['weight'] / total:.3g} %: weight {dest['weight']} of {total}"
        if cluster is None:
            self.line("destination", f"no such cluster ({share})", RED)
            self.line("  outcome", answer_text(dest["answer"]), RED)
            return
        parts = cluster["name"].split("|")
        subset = f", subset {parts[2]}" if len(parts) == 4 and parts[2] else ""
        self.line("destination", f"{cluster['name']} ({share}{subset})", BOLD)
        self.some("  endpoints", [self.endpoint(each) for each in cluster["endpoints"]])
        if "hash_endpoint" in dest:
            self.line("  by hash", f"{dest['hash_endpoint']} while it is healthy")
        self.fields(cluster, CLUSTER, "  ")
        self.fields({key: dest[key] for key in ("request_headers", "response_headers")}, FORWARD, "  ")
        if "sent" in dest:
            host = next((v for name, v in dest["sent"]["headers"] if name.lower() == "host"), "")
            self.line("  sends", f"{dest['sent']['target']} with Host {host}")
        else:
            self.line("  outcome", answer_text(dest["answer"]), RED)

    def endpoint(self, each: Part) -> tuple[str, str]:
        parts = [each["workload"], f"weight {each['weight']}", "TLS" if each["tls"] else ""]
        if "health" in each:
            parts.append(f"{each['in_flight']} in flight")
            health = each["health"]
            if health != "healthy":
                left = each["ejected_ms"]
                health += f" for {span(left)} yet" if left else ", the next request finds out"
            parts.append(health)
        used = each.get("used", True)
        return f"{each['address']} ({listed(*parts, '' if used else 'not used')})", "" if used else RED

    def outcome(self, found: Part) -> None:
        code = GREEN if found["served"] else RED
        outcome = found["outcome"]
        if outcome == "forward":
            self.line("outcome", self.forwarded(found["action"]["destinations"]), code)
        elif outcome == "plaintext_refused":
            self.line("outcome", "the connection is closed: the listener takes TLS only", code)
        elif outcome == "direct":
            answer = found["answer"]
            self.line("outcome", f"{answer['status']}, a direct response: {answer['body']!r}", code)
        elif outcome in ("redirect", "https_redirect"):
            answer = found["answer"]
            to = next((value for name, value in answer["headers"] if name.lower() == "location"), "")
            of = " (the listener's tls.httpsRedirect)" if outcome == "https_redirect" else ""
            self.line("outcome", f"{answer['status']}, a redirect to {to}{of}", code)
        else:
            self.line("outcome", answer_text(found["answer"]), code)
            if "NR" in found["answer"]["flags"]:
                host = found.get("virtual_host")
                none = f"no virtual host is for {found['request']['authority']}"
                self.line("", f"no route of virtual host {host['name']} takes it" if host else none)

    def forwarded(self, dests: list[Part]) -> str:
        usable = [dest for dest in dests if "sent" in dest and dest["weight"]]
        if not usable:
            return answer_text(next(dest for dest in dests if dest["weight"])["answer"])
        names = [dest["cluster"]["name"] for dest in usable]
        return f"sent to {' or '.join(dict.fromkeys(names))}"
