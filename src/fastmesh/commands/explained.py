"""The answer of `fastmesh explain` as text for people. Knows the answer's form (agent/explain.py) and nothing
of how it was found."""

from __future__ import annotations

import os
from typing import Any

BOLD, DIM, GREEN, RED = "1", "2", "32", "31"
WIDTH = 14  # of the column of labels
# Of the routes that were passed over and of a cluster's endpoints: more are counted; JSON has all.
MOST_LINES = 50
WORDS = {
    "plaintext_refused": "the listener takes TLS only: the connection is closed",
    "https_redirect": "301 to https (the listener's tls.httpsRedirect)",
}
OPS = {"exact": "is", "prefix": "begins with", "suffix": "ends with", "regex": "matches the regex"}


def path_text(path: dict[str, Any]) -> str:
    if path["op"] == "any":
        return "any path"
    how = "is or is below" if path["op"] == "path_prefix" else OPS[path["op"]]
    return f"path {how} {path['value']}" + (" (any case)" if path["ignore_case"] else "")


def condition_text(condition: dict[str, Any]) -> str:
    what = condition["on"] + (f" {condition['name']}" if condition["name"] else "")
    how = OPS.get(condition["op"], "")
    text = f"{what} {how} {condition['value']!r}" if how else f"{what} is there"
    if condition["ignore_case"]:
        text += " (any case)"
    return f"not ({text})" if condition["negate"] else text


def rule_text(route: dict[str, Any]) -> str:
    return ", ".join([path_text(route["path"]), *map(condition_text, route["conditions"])])


def failed_text(route: dict[str, Any]) -> str:
    failed = route["failed"]
    return path_text(route["path"]) if failed == "path" else condition_text(route["conditions"][failed])


def name_of(route: dict[str, Any]) -> str:
    parts = [f"[{route['index']}]", route["name"], f"({route['source']})" if "source" in route else ""]
    return " ".join(filter(None, parts))


def span(ms: int) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms} ms"


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
        self.lines.append(f"{self.paint(label.ljust(WIDTH), DIM)}{self.paint(text, code) if code else text}")

    def some(self, label: str, lines: list[tuple[str, str]]) -> None:
        for text, code in lines[:MOST_LINES]:
            self.line(label, text, code)
            label = ""
        if len(lines) > MOST_LINES:
            self.line(label, f"... and {len(lines) - MOST_LINES} more (-o json)")

    def of(self, found: dict[str, Any]) -> str:
        request, listener = found["request"], found["listener"]
        query = f"?{request['query']}" if request["query"] else ""
        url = f"{request['scheme']}://{request['authority']}{request['path']}{query}"
        self.line("request", f"{request['method']} {url}", BOLD)
        self.line(
            "listener",
            f"{listener['name']} ({listener['kind']}, port {listener['port']}, TLS {listener['tls_mode']})",
        )
        if "virtual_host" in found:
            host = found["virtual_host"]
            domains = f" (domains {', '.join(host['domains'])})" if "domains" in host else ""
            self.line("virtual host", f"{host['name']}{domains}")
        passed = [f"{name_of(r)} - does not hold: {failed_text(r)}" for r in found["passed"]]
        self.some("passed over", [(text, "") for text in passed])
        if "route" in found:
            self.line("route", name_of(found["route"]), BOLD)
            self.line("rule", rule_text(found["route"]))
            self.action(found["action"], found["no_cluster_status"])
        elif found["outcome"] == "no_route":
            why = "no route takes it" if "virtual_host" in found else "no virtual host has this name"
            self.line("outcome", f"{found['status']}: {why}", RED)
        else:
            self.line("outcome", WORDS[found["outcome"]], GREEN if found["served"] else RED)
        return "\n".join(self.lines) + "\n"

    def action(self, action: dict[str, Any], no_cluster: int) -> None:
        if action["kind"] == "direct":
            self.line("outcome", f"{action['status']}, a direct response: {action['body']!r}", GREEN)
        elif action["kind"] == "redirect":
            parts = [f"{key} {action[key]}" for key in ("scheme", "authority", "port") if action[key]]
            if action["path"]:
                what = "the matched prefix becomes" if action["replaces"] == "prefix" else "path"
                parts.append(f"{what} {action['path']}")
            self.line("outcome", f"{action['status']}, a redirect: {', '.join(parts)}", GREEN)
        else:
            self.forward(action, no_cluster)
        self.headers("", action)

    def headers(self, indent: str, where: dict[str, Any]) -> None:
        for side in ("request", "response"):
            for op in where[f"{side}_headers"]:
                value = "" if op["op"] == "remove" else f": {op['value']}"
                self.line(f"{indent}{side}", f"{op['op']} {op['name']}{value}")

    def forward(self, action: dict[str, Any], no_cluster: int) -> None:
        for dest in action["destinations"]:
            self.destination(dest, no_cluster)
        rewrite = action["rewrite"]
        if rewrite["replaces"]:
            what = (
                f"the first {rewrite['matched']} bytes of the path become"
                if rewrite["replaces"] == "prefix"
                else "path becomes"
            )
            self.line("rewrite", f"{what} {rewrite['path']}")
        if rewrite["authority"]:
            self.line("rewrite", f"host becomes {rewrite['authority']}")
        self.line("timeout", span(action["timeout_ms"]) if action["timeout_ms"] else "none")
        self.line("retries", self.retries(action["retries"]))
        fault = action["fault"]
        if fault["delay_ppm"]:
            self.line("fault", f"{fault['delay_ppm'] / 10_000:g} % wait {span(fault['delay_ms'])}")
        if fault["abort_ppm"]:
            self.line("fault", f"{fault['abort_ppm'] / 10_000:g} % are answered {fault['abort_status']}")

    def retries(self, plan: dict[str, Any]) -> str:
        from fastmesh.compile.tables import RETRY_ON

        if not plan["attempts"]:
            return "none"
        on = [name for name, bit in RETRY_ON.items() if plan["retry_on"] & bit]
        text = f"up to {plan['attempts']}, on {', '.join(dict.fromkeys(on))}"
        if plan["statuses"]:
            text += f" {plan['statuses']}"
        if plan["per_try_timeout_ms"]:
            text += f"; {span(plan['per_try_timeout_ms'])} a try"
        return f"{text}; back-off {span(plan['backoff_base_ms'])} to {span(plan['backoff_most_ms'])}"

    def destination(self, dest: dict[str, Any], no_cluster: int) -> None:
        share = f"{dest['weight']} of {dest['total_weight']}"
        cluster = dest["cluster"]
        if cluster is None:
            self.line("destination", f"no such cluster: {no_cluster} (weight {share})", RED)
            return
        parts = cluster["name"].split("|")
        subset = f", subset {parts[2]}" if len(parts) == 4 and parts[2] else ""
        self.line("destination", f"{cluster['name']} (weight {share}{subset}, {cluster['balancing']})", BOLD)
        self.some("  endpoint", [self.endpoint(each) for each in cluster["endpoints"]])
        if dest["problem"]:
            self.line("  outcome", f"503: {dest['problem']}", RED)
        self.headers("  ", dest)
        limits, used = cluster["limits"], cluster.get("in_use", {})
        names = (
            ("max_connections", "connections", "connections"),
            ("max_pending", "pending", "pending"),
            ("max_requests", "requests", "active"),
            ("max_retries", "retries", "retries"),
        )
        shown = [
            f"{word} {f'{used[key]} of ' if used else ''}{limits[name] or 'any'}" for name, word, key in names
        ]
        if limits["budget_ppm"]:
            shown.append(
                f"retry budget {limits['budget_ppm'] / 10_000:g} %, at least {limits['budget_least']}"
            )
        self.line("  limits", ", ".join(shown))
        if cluster["outlier_detection"]:
            panic = " (panic: all are used)" if cluster.get("panic") else ""
            self.line("  outliers", f"ejected when they fail{panic}")

    def endpoint(self, each: dict[str, Any]) -> tuple[str, str]:
        parts = [each["workload"], f"weight {each['weight']}", "TLS" if each["tls"] else ""]
        if "health" in each:
            parts.append(f"{each['in_flight']} in flight")
            health = each["health"]
            if "ejected_ms" in each:
                left = span(each["ejected_ms"])
                health += f" for {left} yet" if each["ejected_ms"] else ", the next request finds out"
            parts.append(health)
        if not each["used"]:
            parts.append("not used")
        return f"{each['address']} ({', '.join(filter(None, parts))})", "" if each["used"] else RED
