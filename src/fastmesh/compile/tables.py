"""Route tables of a config into a snapshot: hosts, routes, conditions, actions.

It knows the dict form of a config (model/ir.py) and the enums of shm/snapshot.pxd; nothing of bytes or
processes. Whatever cannot be packed is refused with its path in the config.
"""

from __future__ import annotations

from fastmesh._core.shm.pack import NONE, Packer
from fastmesh.compile.extras import pack_cors, pack_mirrors, pack_rewrite
from fastmesh.compile.packing import (
    MILLION,
    choose,
    field_name,
    field_value,
    network_bytes,
    pack_regex,
    refuse,
    run,
    target_part,
    uint,
)
from fastmesh.compile.ratelimit import pack_limits

# An agent imports this: it does not pay for typing and re (3 MB) to read a config.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fastmesh.model import ir

    Run = tuple[()] | tuple[int, int]

OPS = {"any": 0, "exact": 1, "prefix": 2, "suffix": 3, "regex": 4, "present": 5, "path_prefix": 6}
ON = {"method": 0, "header": 1, "query": 2, "authority": 3, "scheme": 4, "port": 5, "destination": 6}
NEGATE, IGNORE_CASE = 1, 2
FORWARD, REDIRECT, DIRECT = 0, 1, 2
REWRITE_PREFIX, REWRITE_FULL, REWRITE_REGEX = 1, 2, 3
HDR_SET, HDR_ADD, HDR_REMOVE = 0, 1, 2
MAX_HOST = 253  # RFC 1035: a longer name cannot be asked for
MAX_WEIGHT = 1_000_000
MAX_TOTAL = 16_777_216
# Bits of SnapAction.retry_on by Envoy's names.
RETRY_ON = {
    "connect-failure": 1,
    "reset-before-request": 2,
    "5xx": 4,
    "gateway-error": 8,
    "reset": 16,
    "refused-stream": 32,
    "retriable-4xx": 64,
    "unavailable": 128,
    "cancelled": 256,
    "deadline-exceeded": 512,
    "internal": 1024,
    "resource-exhausted": 2048,
    "retriable-status-codes": 4096,
    "envoy-ratelimited": 8192,
}
MAX_STATUSES = 16
MAX_OPS = 128  # as SNAP_MAX_OPS
BACKOFF_MS, BACKOFF_TIMES, MAX_BACKOFF_MS = 25, 10, 300_000  # Envoy: 25 ms, up to ten times that
RETRY_ANYWHERE, RETRY_SAME = 1, 2
# Header names with an id, in the order of H_* in proto/msg.pxd (H_NONE is 0).
HEADER_NAMES = (
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "x-envoy-expected-rq-timeout-ms",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "user-agent",
    "cookie",
    "authorization",
    "server",
    "date",
    "location",
    "http2-settings",
    "content-type",
    "set-cookie",
    "grpc-timeout",
    "grpc-status",
    "grpc-message",
    "sec-websocket-key",
    "sec-websocket-accept",
    "sec-websocket-version",
    "x-fastmesh-h1",
    "x-envoy-attempt-count",
    "x-fastmesh-retry",
)
HEADER_IDS = {name: i for i, name in enumerate(HEADER_NAMES, start=1)}


def pack_hdr_ops(packer: Packer, ops: ir.HdrOps | None, path: str, first: Iterable[list[str]] = ()) -> Run:
    """Header operations in the order in which they are applied: remove, set, add."""
    ops = ops or {}
    todo = [(HDR_SET, pair, "set") for pair in first]
    todo += [(HDR_REMOVE, [name, ""], "remove") for name in ops.get("remove", ())]
    todo += [(HDR_SET, pair, "set") for pair in ops.get("set", ())]
    todo += [(HDR_ADD, pair, "add") for pair in ops.get("add", ())]
    if len(todo) > MAX_OPS:
        raise refuse(path, f"more than {MAX_OPS} header operations")
    made = []
    for op, (name, value), what in todo:
        at = f"{path}.{what}"
        hid = HEADER_IDS.get(name.lower(), 0)
        made.append(packer.hdr_op(op, hid, field_name(name, at), field_value(value, f"{at}.{name}")))
    return run(made)


def pack_cond(packer: Packer, cond: ir.Cond, path: str) -> int:
    on = choose(ON, cond["on"], f"{path}.on")
    if on == ON["destination"]:
        networks = b"".join(
            network_bytes(text, f"{path}.networks[{i}]") for i, text in enumerate(cond.get("networks", ()))
        )
        if not networks:
            raise refuse(f"{path}.networks", "empty")
        return packer.cond(on=on, op=OPS["exact"], flags=0, hid=0, name="", value=networks, number=0)
    op = choose(OPS, cond["op"], f"{path}.op")
    value = cond.get("value", "")
    regex = NONE
    if op in (OPS["any"], OPS["path_prefix"]):
        raise refuse(f"{path}.op", f"{cond['op']!r} is for paths only")
    if on == ON["port"]:
        number = uint(cond.get("number"), f"{path}.number", 65535)
        negate = NEGATE if cond.get("negate") else 0
        return packer.cond(on=on, op=OPS["exact"], flags=negate, hid=0, name="", value="", number=number)
    if on in (ON["header"], ON["query"]) and not cond.get("name"):
        raise refuse(f"{path}.name", "missing")
    if on == ON["header"] and (cond["op"], value) in (("regex", ".*"), ("prefix", ""), ("suffix", "")):
        op = OPS["present"]  # the same, and it needs no value: a field that is missing must not match
    if op == OPS["regex"]:
        # the flag says it to RE2 in its own syntax
        regex = pack_regex(packer, f"(?i:{value})" if cond.get("ignore_case") else value, f"{path}.value")
    flags = (NEGATE if cond.get("negate") else 0) | (IGNORE_CASE if cond.get("ignore_case") else 0)
    name = cond.get("name", "")
    hid = 0
    if on == ON["header"]:
        name = name.lower()
        hid = HEADER_IDS.get(name, 0)
    return packer.cond(on=on, op=op, flags=flags, hid=hid, name=name, value=value, number=0, regex=regex)


class TablePacker:
    """Packs route tables; `clusters` maps a name to its index in the snapshot."""

    def __init__(self, packer: Packer, clusters: Mapping[str, int]) -> None:
        self.packer = packer
        self.clusters = clusters

    def both(self, where: ir.Dest | ir.Route, path: str, first: Iterable[list[str]] = ()) -> tuple[Run, Run]:
        """The operations on the request and on the response; `first` are put before the latter."""
        request = pack_hdr_ops(self.packer, where.get("request_headers"), f"{path}.request_headers")
        response = pack_hdr_ops(self.packer, where.get("response_headers"), f"{path}.response_headers", first)
        return request, response

    def dests(self, dests: Sequence[ir.Dest], path: str) -> tuple[Run, int]:
        """The run of destinations and their total weight."""
        ops = [self.both(d, f"{path}[{i}]") for i, d in enumerate(dests)]
        weights = [uint(d["weight"], f"{path}[{i}].weight", MAX_WEIGHT) for i, d in enumerate(dests)]
        if sum(weights) == 0:
            weights = [1] * len(dests)  # one destination without a weight takes all
        if sum(weights) > MAX_TOTAL:
            raise refuse(path, f"weights add up to more than {MAX_TOTAL}")
        made, total = [], 0
        for dest, weight, (request, response) in zip(dests, weights, ops, strict=True):
            total += weight
            cluster = self.clusters.get(dest["cluster"], NONE)
            made.append(
                self.packer.dest(cluster=cluster, weight=total, request_ops=request, response_ops=response)
            )
        return run(made), total

    def action(self, route: ir.Route, path_op: int, path: str) -> int:
        kinds = [k for k in ("dests", "redirect", "direct") if route.get(k) is not None]
        if len(kinds) != 1:
            raise refuse(path, f"exactly one of dests, redirect, direct is needed, not {kinds or 'none'}")
        timeout = uint(route.get("timeout_ms", 0), f"{path}.timeout_ms")
        if kinds == ["dests"]:
            return self.forward(route, path_op, path, timeout)
        direct = route.get("direct")
        typed = []
        if direct is not None and direct.get("content_type", "text/plain") != "text/plain":
            typed = [["content-type", direct["content_type"]]]  # text/plain is what it has by itself
        request, response = self.both(route, path, typed)
        if direct is not None:
            index = self.packer.action(
                DIRECT,
                status=uint(direct["status"], f"{path}.direct.status", 599, 200),
                body=direct.get("body", b""),
                request_ops=request,
                response_ops=response,
            )
        else:
            index = self.redirect(route["redirect"], request, response, path)
        if "cors" in route:
            pack_cors(self.packer, index, route["cors"], f"{path}.cors")
        return index

    def redirect(self, redirect: ir.Redirect, request: Run, response: Run, path: str) -> int:
        prefix = redirect.get("prefix")
        return self.packer.action(
            REDIRECT,
            status=uint(redirect.get("code", 301), f"{path}.redirect.code", 399, 300),
            redirect_scheme=target_part(redirect.get("scheme", ""), f"{path}.redirect.scheme"),
            redirect_host=target_part(redirect.get("authority", ""), f"{path}.redirect.authority"),
            redirect_port=uint(redirect.get("port", 0), f"{path}.redirect.port", 65535),
            redirect_path=target_part(
                redirect.get("path", "") if prefix is None else prefix,
                f"{path}.redirect.{'path' if prefix is None else 'prefix'}",
            ),
            rewrite_op=0 if prefix is None else REWRITE_PREFIX,
            request_ops=request,
            response_ops=response,
        )

    def forward(self, route: ir.Route, path_op: int, path: str, timeout: int) -> int:
        if not route["dests"]:
            raise refuse(f"{path}.dests", "empty")
        dests, total = self.dests(route["dests"], f"{path}.dests")
        request, response = self.both(route, path)
        rewrite = route.get("rewrite") or {}
        rewrite_op = 0
        if rewrite.get("regex") is not None:
            rewrite_op = REWRITE_REGEX
        elif rewrite.get("path") is not None:
            # A match of the whole path leaves nothing behind the prefix: both are then one.
            by_prefix = path_op in (OPS["any"], OPS["prefix"], OPS["path_prefix"])
            rewrite_op = REWRITE_PREFIX if by_prefix else REWRITE_FULL
        retries = route.get("retries") or {}
        per_try = uint(retries.get("per_try_timeout_ms", 0), f"{path}.retries.per_try_timeout_ms")
        bits = 0
        for i, name in enumerate(retries.get("retry_on", ())):
            bits |= choose(RETRY_ON, name, f"{path}.retries.retry_on[{i}]")
        index = self.packer.action(
            FORWARD,
            dests=dests,
            total_weight=total,
            request_ops=request,
            response_ops=response,
            rewrite_op=rewrite_op,
            rewrite_path=target_part(rewrite.get("path") or "", f"{path}.rewrite.path"),
            rewrite_host=target_part(rewrite.get("authority") or "", f"{path}.rewrite.authority"),
            timeout_ms=timeout,
            per_try_timeout_ms=per_try,
            retries=uint(retries.get("attempts", 0), f"{path}.retries.attempts", 100),
            retry_on=bits,
        )
        self.retry(index, retries, f"{path}.retries")
        if rewrite_op == REWRITE_REGEX:
            self.packer.action_rewrite_regex(index, pack_rewrite(self.packer, rewrite, f"{path}.rewrite"))
        if "mirrors" in route:
            pack_mirrors(self.packer, index, route["mirrors"], self.clusters, f"{path}.mirrors")
        if "cors" in route:
            pack_cors(self.packer, index, route["cors"], f"{path}.cors")
        if "fault" in route:
            self.fault(index, route["fault"], f"{path}.fault")
        return index

    def fault(self, action: int, fault: ir.Fault, path: str) -> None:
        grpc = fault.get("abort_grpc")
        self.packer.action_fault(
            action,
            delay_ppm=uint(fault.get("delay_ppm", 0), f"{path}.delay_ppm", MILLION),
            delay_ms=uint(fault.get("delay_ms", 0), f"{path}.delay_ms"),
            abort_ppm=uint(fault.get("abort_ppm", 0), f"{path}.abort_ppm", MILLION),
            abort_status=uint(fault.get("abort_status", 503), f"{path}.abort_status", 599, 200),
            abort_grpc=0 if grpc is None else uint(grpc, f"{path}.abort_grpc", 16) + 1,
        )

    def retry(self, action: int, retries: ir.Retries, path: str) -> None:
        statuses = retries.get("statuses", [])
        if len(statuses) > MAX_STATUSES:
            raise refuse(f"{path}.statuses", f"more than {MAX_STATUSES}")
        base = uint(retries.get("backoff_ms", BACKOFF_MS), f"{path}.backoff_ms", MAX_BACKOFF_MS)
        flags = RETRY_ANYWHERE if retries.get("anywhere") else 0
        flags |= RETRY_SAME if retries.get("same") else 0
        self.packer.action_retry(
            action,
            statuses=[uint(s, f"{path}.statuses[{i}]", 599, 200) for i, s in enumerate(statuses)],
            backoff_base_ms=base,
            backoff_most_ms=base * BACKOFF_TIMES,
            flags=flags,
        )

    def route(self, route: ir.Route, conds: Run, action: int, path: str) -> int:
        match = route.get("path")
        if match is None:
            name = route.get("name", "")
            return self.packer.route(name, path_op=0, path="", flags=0, conds=conds, action=action)
        op, value = choose(OPS, match["op"], f"{path}.path.op"), match["value"]
        regex = NONE
        if op == OPS["present"]:
            raise refuse(f"{path}.path.op", "a path is always present")
        if op == OPS["path_prefix"]:
            value = value.rstrip("/")  # /a/ and /a take the same paths; what is left of / takes all
        if op == OPS["regex"]:
            regex = pack_regex(self.packer, value, f"{path}.path.value")
            value = ""
        flags = IGNORE_CASE if match.get("ignore_case") else 0
        return self.packer.route(
            route.get("name", ""),
            path_op=op,
            path=value,
            flags=flags,
            conds=conds,
            action=action,
            regex=regex,
        )

    def table(self, table: ir.RouteTable, path: str) -> int:
        hosts: list[tuple[str, bool, int]] = []
        owners: dict[str, str] = {}
        any_vhost, max_labels = NONE, 0
        for i, vhost in enumerate(table["virtual_hosts"]):
            at = f"{path}.virtual_hosts[{i}]"
            parts = []
            for k, route in enumerate(vhost["routes"]):
                here = f"{at}.routes[{k}]"
                conds = run(
                    [
                        pack_cond(self.packer, cond, f"{here}.conds[{j}]")
                        for j, cond in enumerate(route.get("conds", ()))
                    ]
                )
                match = route.get("path")
                op = OPS.get(match["op"], 0) if match else 0
                action = self.action(route, op, here)
                pack_limits(self.packer, action, route.get("limits", []), f"{here}.limits")
                parts.append((route, conds, action, here))
            routes = run([self.route(*part) for part in parts])
            index = self.packer.vhost(vhost["name"], routes)
            for domain in vhost["domains"]:
                name = normal_domain(domain, f"{at}.domains")
                if name in owners:
                    raise refuse(f"{at}.domains", f"{domain!r} is in {owners[name]!r} too")
                owners[name] = vhost["name"]
                if name == "*":
                    any_vhost = index
                elif name.startswith("*"):
                    hosts.append((name[1:], True, index))
                    max_labels = max(max_labels, name.count("."))  # a port has no dot
                else:
                    hosts.append((name, False, index))
        return self.packer.table(table["name"], hosts, any_vhost, max_labels)


def normal_domain(domain: str, path: str) -> str:
    """A domain as look-ups spell it: lower case, no trailing dot; "*", "*.suffix" or a name, then a port."""
    name = domain.lower()
    host, colon, port = name.rpartition(":")
    if not colon or port.endswith("]") or not port.isdigit():
        host, colon, port = name, "", ""
    host = host.removesuffix(".")
    try:
        host.encode("ascii")
    except UnicodeEncodeError:
        raise refuse(path, f"{domain!r}: not ASCII; write it in its xn-- form") from None
    if host == "*" and colon:
        raise refuse(path, f"{domain!r}: a port behind the catch-all; match the port in a condition")
    if host == "*" and name != "*":
        raise refuse(path, f"{domain!r}: a wildcard without a name")
    if not host or len(host) > MAX_HOST:
        raise refuse(path, f"{domain!r}: empty or longer than {MAX_HOST}")
    if "*" in host and host != "*" and not (host.startswith("*.") and "*" not in host[1:] and len(host) > 2):
        raise refuse(path, f"{domain!r}: a wildcard is the whole first label (*.example.com) or all (*)")
    return host + colon + port
