"""BORDER (L3): what a worker would do with a request, and why, over the bytes of a snapshot: the parser, the hygiene and the matcher that
workers run, asked once. For the agent's view and `fastmesh explain`. Owns nothing that stays: patterns are compiled for a question and freed.

Must not know: sockets, cells, what a config means. Never called in a worker: router_load would take its patterns away.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memset

from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOCLUSTER, FM_ENOROUTE, FM_OK
from fastmesh._core.policy.router cimport (
    ROUTE_PATH, ROUTE_TAKES, RouteMatch, router_forget, router_load, router_match, router_obstacle, router_vhost)
from fastmesh._core.proto.h1_body cimport h1_body_request
from fastmesh._core.proto.h1_head cimport h1_request_head
from fastmesh._core.proto.hygiene cimport hygiene_request
from fastmesh._core.proto.msg cimport BODY_NONE, MF_UPGRADE, Msg
from fastmesh._core.proxy.ctx cimport Plan
from fastmesh._core.proxy.plan cimport plan_take
from fastmesh._core.proxy.respond cimport respond_status_of, respond_text_of
from fastmesh._core.shm.snapshot cimport (
    ACT_DIRECT, ACT_FORWARD, ACT_REDIRECT, CF_IGNORE_CASE, CF_NOT, CL_AS_CLIENT, CL_H2, EP_TLS, HOP_ADD, HOP_REMOVE, HOP_SET,
    L_GATEWAY, L_INBOUND, L_OUTBOUND, LB_LEAST_REQUEST, LB_MAGLEV, LB_PEAK_EWMA, LB_RANDOM, LB_RING_HASH, LB_ROUND_ROBIN,
    LF_HTTPS_REDIRECT, OF_ON, ON_AUTHORITY, ON_HEADER, ON_METHOD, ON_PORT, ON_QUERY, ON_SCHEME, OP_ANY, OP_EXACT, OP_PATH_PREFIX,
    OP_PREFIX, OP_PRESENT, OP_REGEX, OP_SUFFIX, RW_FULL, RW_NONE, RW_PREFIX, SNAP_NONE, TLS_DISABLE, TLS_PERMISSIVE, TLS_STRICT, Snap,
    SnapAction, SnapArr, SnapCluster, SnapCond, SnapDest, SnapEndpoint, SnapFault, SnapHdrOp, SnapHeader, SnapListener, SnapRoute,
    SnapStr, SnapVhost, snap_fault, snap_open)

KINDS = {<int>L_GATEWAY: "gateway", <int>L_OUTBOUND: "outbound", <int>L_INBOUND: "inbound"}
TLS_MODES = {<int>TLS_DISABLE: "disable", <int>TLS_STRICT: "strict", <int>TLS_PERMISSIVE: "permissive"}
OPS = {
    <int>OP_ANY: "any", <int>OP_EXACT: "exact", <int>OP_PREFIX: "prefix", <int>OP_SUFFIX: "suffix", <int>OP_REGEX: "regex",
    <int>OP_PRESENT: "present", <int>OP_PATH_PREFIX: "path_prefix",
}
ON = {
    <int>ON_METHOD: "method", <int>ON_HEADER: "header", <int>ON_QUERY: "query", <int>ON_AUTHORITY: "authority", <int>ON_SCHEME: "scheme",
    <int>ON_PORT: "port",
}
ACTIONS = {<int>ACT_FORWARD: "forward", <int>ACT_REDIRECT: "redirect", <int>ACT_DIRECT: "direct"}
REWRITES = {<int>RW_NONE: "", <int>RW_PREFIX: "prefix", <int>RW_FULL: "path"}
HDR_OPS = {<int>HOP_SET: "set", <int>HOP_ADD: "add", <int>HOP_REMOVE: "remove"}
BALANCING = {
    <int>LB_ROUND_ROBIN: "ROUND_ROBIN", <int>LB_LEAST_REQUEST: "LEAST_REQUEST", <int>LB_RANDOM: "RANDOM", <int>LB_PEAK_EWMA: "PEAK_EWMA",
    <int>LB_RING_HASH: "RING_HASH", <int>LB_MAGLEV: "MAGLEV",
}


class RequestRefused(ValueError):
    """What is no request to a worker either; `status` is what it would answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


cdef str text(const Snap *s, SnapStr v):
    return s.base[v.off:v.off + v.n].decode("utf-8", "backslashreplace")


cdef int opened(Snap *s, bytes raw) except -1:
    """A view of a snapshot's bytes, which the caller keeps; ValueError when they are none that a worker would take."""
    cdef SnapFault why
    if len(raw) < sizeof(SnapHeader):
        raise ValueError("no snapshot: less than a header")
    if snap_fault(raw, len(raw), &why) != FM_OK:
        raise ValueError(f"no snapshot: {why.section.decode()}[{why.index}]: {why.what.decode()}")
    snap_open(s, raw)
    return 0


cdef dict listener_dict(const Snap *s, const SnapListener *l):
    return {
        "name": text(s, l.name), "kind": KINDS[l.kind], "port": l.port, "tls_mode": TLS_MODES[l.tls_mode],
        "https_redirect": bool(l.flags & LF_HTTPS_REDIRECT),
    }


def listeners(bytes snapshot) -> list[dict]:
    """The listeners of a snapshot: name, kind, port, tls_mode, https_redirect."""
    cdef Snap s
    cdef const SnapListener *l
    opened(&s, snapshot)
    l = <const SnapListener *>(s.base + s.h.listeners.off)
    return [listener_dict(&s, &l[i]) for i in range(s.h.listeners.n)]


cdef dict cond_dict(const Snap *s, const SnapCond *c):
    return {
        "on": ON[c.on], "op": OPS[c.op], "name": text(s, c.name), "value": str(c.number) if c.on == ON_PORT else text(s, c.value),
        "negate": bool(c.flags & CF_NOT), "ignore_case": bool(c.flags & CF_IGNORE_CASE),
    }


cdef dict route_dict(const Snap *s, const SnapRoute *r, uint32_t index):
    cdef const SnapCond *c = <const SnapCond *>(s.base + r.conds.off)
    return {
        "index": index, "name": text(s, r.name),
        "path": {"op": OPS[r.path_op], "value": text(s, r.path), "ignore_case": bool(r.flags & CF_IGNORE_CASE)},
        "conditions": [cond_dict(s, &c[i]) for i in range(r.conds.n)],
    }


cdef list ops_list(const Snap *s, SnapArr ops):
    cdef const SnapHdrOp *o = <const SnapHdrOp *>(s.base + ops.off)
    return [{"op": HDR_OPS[o[i].op], "name": text(s, o[i].name), "value": text(s, o[i].value)} for i in range(ops.n)]


cdef dict cluster_dict(const Snap *s, const SnapCluster *c):
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + c.endpoints.off)
    return {
        "name": text(s, c.name), "service": text(s, c.service), "cell": c.cell, "balancing": BALANCING[c.lb],
        "protocol": "h2" if c.flags & CL_H2 else "as_client" if c.flags & CL_AS_CLIENT else "http1",
        "sni": text(s, c.sni), "connect_timeout_ms": c.connect_timeout_ms, "outlier_detection": bool(c.outlier.flags & OF_ON),
        "panic_percent": c.panic_percent,
        "limits": {
            "max_connections": c.max_connections, "max_pending": c.max_pending, "max_requests": c.max_requests,
            "max_retries": c.max_retries, "budget_ppm": c.budget_ppm, "budget_least": c.budget_least,
        },
        "endpoints": [
            {"address": text(s, e[i].text), "workload": text(s, e[i].workload), "weight": e[i].weight, "tls": bool(e[i].flags & EP_TLS),
             "cell": e[i].cell}
            for i in range(c.endpoints.n)
        ],
    }


cdef list dests_list(const Snap *s, const SnapAction *a):
    cdef const SnapDest *d = <const SnapDest *>(s.base + a.dests.off)
    cdef const SnapCluster *c = <const SnapCluster *>(s.base + s.h.clusters.off)
    found = []
    before = 0
    for i in range(a.dests.n):
        found.append({
            "weight": d[i].weight - before, "total_weight": a.total_weight,
            "request_headers": ops_list(s, d[i].request_ops), "response_headers": ops_list(s, d[i].response_ops),
            "cluster": None if d[i].cluster == SNAP_NONE else cluster_dict(s, &c[d[i].cluster]),
        })
        before = d[i].weight
    return found


cdef dict action_dict(const Snap *s, const SnapAction *a, const RouteMatch *rm):
    cdef Plan p
    cdef SnapCluster none
    found = {
        "kind": ACTIONS[a.kind], "request_headers": ops_list(s, a.request_ops), "response_headers": ops_list(s, a.response_ops),
    }
    if a.kind == ACT_DIRECT:
        return {**found, "status": a.status, "body": text(s, a.body)}
    if a.kind == ACT_REDIRECT:
        return {
            **found, "status": a.status, "scheme": text(s, a.redirect_scheme), "authority": text(s, a.redirect_host),
            "port": a.redirect_port, "path": text(s, a.redirect_path), "replaces": REWRITES[a.rewrite_op], "matched": rm.prefix_n,
        }
    memset(&none, 0, sizeof(none))
    memset(&p, 0, sizeof(p))
    plan_take(&p, s, a, &none)     # what an exchange goes by
    return {
        **found,
        "rewrite": {
            "replaces": REWRITES[a.rewrite_op], "path": text(s, a.rewrite_path), "matched": rm.prefix_n, "authority": text(s, a.rewrite_host),
        },
        "timeout_ms": p.timeout_ms,
        "retries": {
            "attempts": p.retries, "retry_on": p.retry_on, "statuses": [p.statuses[i] for i in range(p.nstatuses)],
            "per_try_timeout_ms": p.per_try_timeout_ms, "backoff_base_ms": p.backoff_base_ms, "backoff_most_ms": p.backoff_most_ms,
        },
        "fault": {
            "delay_ppm": p.delay_ppm, "delay_ms": p.delay_ms, "abort_ppm": p.abort_ppm, "abort_status": p.abort_status,
            "abort_grpc": p.abort_grpc - 1 if p.abort_grpc else None,
        },
        "destinations": dests_list(s, a),
    }


cdef int parsed(Msg *m, bytes head) except -1:
    """A request head as a worker reads it: RequestRefused with its own answer, or when the bytes hold anything else than that one head."""
    cdef int rc
    memset(m, 0, sizeof(Msg))
    rc = h1_request_head(head, len(head), 0, m)
    if rc > 0 and <size_t>rc == len(head):
        h1_body_request(m)
        rc = hygiene_request(m, (m.flags & MF_UPGRADE) != 0 and m.body == BODY_NONE)
    elif rc > 0 or rc == FM_AGAIN:
        raise RequestRefused(400, "not one request head")
    if rc < 0:
        raise RequestRefused(respond_status_of(rc), (<bytes>respond_text_of(rc)).decode().strip())
    return 0


def explain(bytes snapshot, str listener, bytes head, bint tls) -> dict:
    """What becomes of an HTTP/1 request head that comes by this listener: `outcome` is "forward", "direct", "redirect", "https_redirect",
    "plaintext_refused", "no_route" (with what the route table says so far). KeyError: no such listener; RequestRefused; ValueError."""
    cdef Snap s
    cdef Msg m
    cdef RouteMatch rm
    cdef const SnapListener *l
    cdef const SnapVhost *v
    cdef const SnapRoute *r
    cdef uint32_t i
    cdef int why
    opened(&s, snapshot)
    parsed(&m, head)
    l = <const SnapListener *>(s.base + s.h.listeners.off)
    for i in range(s.h.listeners.n):
        if text(&s, l[i].name) == listener:
            l = &l[i]
            break
    else:
        raise KeyError(listener)
    found = {"generation": s.generation, "listener": listener_dict(&s, l), "table": l.table, "passed": []}
    if l.tls_mode == TLS_STRICT and not tls:
        return {**found, "outcome": "plaintext_refused"}
    if l.flags & LF_HTTPS_REDIRECT and not tls:
        return {**found, "outcome": "https_redirect"}
    v = router_vhost(&s, l.table, &m)
    if v == NULL:
        return {**found, "outcome": "no_route", "status": respond_status_of(FM_ENOROUTE)}
    found["virtual_host"] = {"index": v - <const SnapVhost *>(s.base + s.h.vhosts.off), "name": text(&s, v.name), "routes": v.routes.n}
    if router_load(&s) != FM_OK:
        router_forget()
        raise ValueError("a regular expression of the snapshot cannot be compiled")
    try:
        r = <const SnapRoute *>(s.base + v.routes.off)
        for i in range(v.routes.n):
            why = router_obstacle(&s, &r[i], &m, tls, l.port)
            if why == ROUTE_TAKES:
                break
            found["passed"].append({**route_dict(&s, &r[i], i), "failed": "path" if why == ROUTE_PATH else why})
        if router_match(&s, l.table, &m, tls, l.port, 0, &rm) != FM_OK:
            return {**found, "outcome": "no_route", "status": respond_status_of(FM_ENOROUTE)}
        i = <uint32_t>(rm.route - r)
        return {
            **found, "outcome": ACTIONS[rm.action.kind], "route": route_dict(&s, rm.route, i), "action": action_dict(&s, rm.action, &rm),
            "no_cluster_status": respond_status_of(FM_ENOCLUSTER),
        }
    finally:
        router_forget()
