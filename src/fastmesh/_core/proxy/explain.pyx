"""BORDER (L3): what a worker would do with a request, and why, over the bytes of a snapshot: the parser, the matcher and the phases of an
exchange that workers run, asked once (proxy/rehearse). For the agent's view and `fastmesh explain`. Owns nothing that stays: patterns are
compiled for a question and freed after it.

Must not know: sockets, the cells of a running proxy. Never called in a worker: router_load would take its patterns away.
A field that config gets is one line in the dict of what it belongs to.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from cpython.bytes cimport PyBytes_FromStringAndSize
from fastmesh._core.base.err cimport FM_ENOHEALTHY, FM_OK
from fastmesh._core.base.view cimport Slice, slice_of
from fastmesh._core.policy.authz cimport AuthzVerdict
from fastmesh._core.policy.lb_hash cimport HashWalk, hash_begin, hash_next
from fastmesh._core.policy.router cimport (
    ROUTE_PATH, ROUTE_TAKES, RouteMatch, router_forget, router_load, router_match, router_obstacle, router_vhost)
from fastmesh._core.proto.h1_body cimport h1_body_request
from fastmesh._core.proto.h1_head cimport h1_request_head
from fastmesh._core.proto.hygiene cimport hygiene_request
from fastmesh._core.proto.pathnorm cimport PATH_REFUSED, path_normalize
from fastmesh._core.proto.msg cimport BODY_NONE, HF_DROP, MF_UPGRADE, Msg
from fastmesh._core.proxy.ctx cimport REPLAY_BYTES
from fastmesh._core.proxy.rehearse cimport Rehearsal, rehearsal_free, rehearsal_new, rehearsal_run
from fastmesh._core.proxy.respond cimport RE_FAULT, RE_OVERFLOW
from fastmesh._core.shm.authztab cimport AZ_PATH, SnapAuthz
from fastmesh._core.shm.segment cimport Segment, SegMap, segment_map
from fastmesh._core.shm.snapshot cimport (
    ACT_DIRECT, ACT_FORWARD, ACT_REDIRECT, AF_RETRY_ANYWHERE, AF_RETRY_SAME, CF_IGNORE_CASE, CF_NOT, CL_AS_CLIENT, CL_H2, CL_KEEPALIVE,
    CL_ORIGINAL_DST,    CL_VERIFY_SAN, CO_CREDENTIALS, CO_FORWARD, EP_TLS, HASH_COOKIE, HASH_HEADER, HASH_NO_COOKIE, HASH_NONE, HASH_QUERY, HASH_SOURCE,
    HK_GRPC, HK_HTTP, HK_NONE, HK_TCP, HOP_ADD, HOP_REMOVE, HOP_SET, L_GATEWAY, L_INBOUND, L_OUTBOUND, LB_LEAST_REQUEST, LB_MAGLEV,
    LB_PEAK_EWMA, LB_RANDOM, LB_RING_HASH, LB_ROUND_ROBIN, LF_CAPTURED, LF_HTTPS_REDIRECT, LF_SNI, LF_TCP, MILLION, OF_ON, OF_SPLIT, ON_AUTHORITY,
    ON_DESTINATION, ON_HEADER,
    ON_METHOD, ON_PORT, ON_QUERY, ON_SCHEME, OP_ANY, OP_EXACT, OP_PATH_PREFIX, OP_PREFIX, OP_PRESENT, OP_REGEX, OP_SUFFIX, PER_IDENTITY,
    RW_FULL, RW_NONE, RW_PREFIX, RW_REGEX, SNAP_NONE, TLS_DISABLE, TLS_PERMISSIVE, TLS_STRICT, Snap, SnapAction, SnapArr, SnapCluster,
    SnapCond, SnapDest, SnapEndpoint, SnapFault, SnapHdrOp, SnapHeader, SnapLevel, SnapCors, SnapHealth, SnapLimit, SnapListener,
    SnapMirror, SnapOrigin, SnapOutlier, SnapRoute, SnapStr, SnapVhost, snap_fault, snap_open)
from fastmesh._core.shm.names import FLAG_NAMES

CHECKS = {<int>HK_HTTP: "HTTP", <int>HK_GRPC: "gRPC", <int>HK_TCP: "TCP"}
KINDS = {<int>L_GATEWAY: "gateway", <int>L_OUTBOUND: "outbound", <int>L_INBOUND: "inbound"}
TLS_MODES = {<int>TLS_DISABLE: "disable", <int>TLS_STRICT: "strict", <int>TLS_PERMISSIVE: "permissive"}
OPS = {
    <int>OP_ANY: "any", <int>OP_EXACT: "exact", <int>OP_PREFIX: "prefix", <int>OP_SUFFIX: "suffix", <int>OP_REGEX: "regex",
    <int>OP_PRESENT: "present", <int>OP_PATH_PREFIX: "path_prefix",
}
ON = {
    <int>ON_METHOD: "method", <int>ON_HEADER: "header", <int>ON_QUERY: "query", <int>ON_AUTHORITY: "authority", <int>ON_SCHEME: "scheme",
    <int>ON_PORT: "port", <int>ON_DESTINATION: "destination",
}
ACTIONS = {<int>ACT_FORWARD: "forward", <int>ACT_REDIRECT: "redirect", <int>ACT_DIRECT: "direct"}
REWRITES = {<int>RW_NONE: "", <int>RW_PREFIX: "prefix", <int>RW_FULL: "path", <int>RW_REGEX: "matches"}
HDR_OPS = {<int>HOP_SET: "set", <int>HOP_ADD: "add", <int>HOP_REMOVE: "remove"}
BALANCING = {
    <int>LB_ROUND_ROBIN: "ROUND_ROBIN", <int>LB_LEAST_REQUEST: "LEAST_REQUEST", <int>LB_RANDOM: "RANDOM", <int>LB_PEAK_EWMA: "PEAK_EWMA",
    <int>LB_RING_HASH: "RING_HASH", <int>LB_MAGLEV: "MAGLEV",
}
HASH_ON = {<int>HASH_HEADER: "header", <int>HASH_COOKIE: "cookie", <int>HASH_SOURCE: "source", <int>HASH_QUERY: "query"}

CODES = {"no_healthy": <int>FM_ENOHEALTHY, "overflow": <int>RE_OVERFLOW}


def named(names: dict, number: int) -> str:
    """A number's name; one that is newer than this file is shown as it is."""
    return names.get(number, f"#{number}")


cdef str text(const Snap *s, SnapStr v):
    return s.base[v.off:v.off + v.n].decode("utf-8", "backslashreplace")


cdef str said(const char *p, size_t n):
    return p[:n].decode("utf-8", "backslashreplace") if n else ""


cdef const void *first(const Snap *s, SnapArr a):
    return s.base + a.off


# ---- the parts of a snapshot -------------------------------------------------------------------------------------------------------

cdef dict authz_dict(const Rehearsal *r):
    cdef const AuthzVerdict *v = &r.w.verdict
    return {
        "denied": bool(v.denied), "rule": said(v.rule.p, v.rule.n), "audited": said(v.audit.p, v.audit.n),
        "dry_run": "denied" if v.dry_denied else "allowed" if v.dry_allowed else "", "dry_run_rule": said(v.dry.p, v.dry.n),
    }


cdef dict listener_dict(const Snap *s, const SnapListener *l):
    return {
        "name": text(s, l.name), "kind": named(KINDS, l.kind), "port": l.port, "tls_mode": named(TLS_MODES, l.tls_mode),
        "https_redirect": bool(l.flags & LF_HTTPS_REDIRECT),
        "protocol": "sni" if l.flags & LF_SNI else ("tcp" if l.flags & LF_TCP else "http"), "captured": bool(l.flags & LF_CAPTURED),
    }


cdef dict cond_dict(const Snap *s, const SnapCond *c):
    return {
        "on": named(ON, c.on), "op": named(OPS, c.op), "name": text(s, c.name),
        "value": str(c.number) if c.on == ON_PORT else text(s, c.value), "negate": bool(c.flags & CF_NOT),
        "ignore_case": bool(c.flags & CF_IGNORE_CASE),
    }


cdef dict route_dict(const Snap *s, const SnapRoute *r, uint32_t index):
    cdef const SnapCond *c = <const SnapCond *>first(s, r.conds)
    cdef const SnapStr *regexes = <const SnapStr *>first(s, s.h.regexes)
    cdef SnapStr path = regexes[r.regex] if r.path_op == OP_REGEX else r.path
    return {
        "index": index, "name": text(s, r.name),
        "path": {"op": named(OPS, r.path_op), "value": text(s, path), "ignore_case": bool(r.flags & CF_IGNORE_CASE)},
        "conditions": [cond_dict(s, &c[i]) for i in range(r.conds.n)],
    }


cdef list ops_list(const Snap *s, SnapArr ops):
    cdef const SnapHdrOp *o = <const SnapHdrOp *>first(s, ops)
    return [{"op": named(HDR_OPS, o[i].op), "name": text(s, o[i].name), "value": text(s, o[i].value)} for i in range(ops.n)]


cdef dict outlier_dict(const SnapCluster *c):
    cdef const SnapOutlier *o = &c.outlier
    if not o.flags & OF_ON:
        return None
    return {
        "consecutive_5xx": o.consecutive_5xx, "consecutive_gateway": o.consecutive_gateway, "consecutive_local": o.consecutive_local,
        "split": bool(o.flags & OF_SPLIT), "interval_ms": o.interval_ms, "base_ms": o.base_ms, "most_ms": o.most_ms,
        "max_percent": o.max_percent, "min_health_percent": c.panic_percent,
        "success_rate": {
            "hosts": o.rate_hosts, "volume": o.rate_volume, "stdev_factor": o.rate_stdev_milli / 1000.0,
        } if o.rate_stdev_milli else None,
        "failure_percentage": {
            "hosts": o.failure_hosts, "volume": o.failure_volume, "percent": o.failure_percent,
        } if o.failure_percent else None,
    }


cdef dict hash_dict(const Snap *s, const SnapCluster *c):
    if c.hash_on == HASH_NONE:
        return None
    return {
        "on": named(HASH_ON, c.hash_on), "name": text(s, c.hash_name), "path": text(s, c.hash_path),
        "ttl_s": None if c.hash_ttl_s == HASH_NO_COOKIE else c.hash_ttl_s,
    }


cdef dict health_dict(const Snap *s, const SnapCluster *c):
    cdef const SnapHealth *h = &c.health
    cdef const uint32_t *expected = <const uint32_t *>first(s, h.expected)
    if h.kind == HK_NONE:
        return None
    return {
        "kind": named(CHECKS, h.kind), "port": h.port, "interval_ms": h.interval_ms, "jitter_percent": h.jitter_percent,
        "timeout_ms": h.timeout_ms, "unhealthy": h.unhealthy, "healthy": h.healthy, "path": text(s, h.path), "host": text(s, h.host),
        "service": text(s, h.service), "expected": [expected[i] for i in range(h.expected.n)],
    }


cdef dict endpoint_dict(const Snap *s, const SnapEndpoint *e):
    return {
        "address": text(s, e.text), "workload": text(s, e.workload), "weight": e.weight, "tls": bool(e.flags & EP_TLS), "cell": e.cell,
    }


cdef dict cluster_dict(const Snap *s, const SnapCluster *c):
    cdef const SnapEndpoint *e = <const SnapEndpoint *>first(s, c.endpoints)
    cdef const SnapStr *sans = <const SnapStr *>first(s, c.sans)
    cdef const SnapLevel *lv = <const SnapLevel *>first(s, c.levels)
    return {
        "name": text(s, c.name), "service": text(s, c.service), "cell": c.cell, "balancing": named(BALANCING, c.lb),
        "hash": hash_dict(s, c), "decay_ms": c.decay_ms,
        "warm": {
            "ms": c.warm_ms, "least_percent": c.warm_least_percent, "aggression": c.warm_aggression_centi / 100.0,
        } if c.warm_ms else None,
        "protocol": "h2" if c.flags & CL_H2 else "as_client" if c.flags & CL_AS_CLIENT else "http1",
        "original_dst": bool(c.flags & CL_ORIGINAL_DST),
        "tls": {
            "sni": text(s, c.sni), "sans": [text(s, sans[i]) for i in range(c.sans.n)] if c.flags & CL_VERIFY_SAN else None,
        } if c.tls != SNAP_NONE else None,
        "connection": {
            "connect_timeout_ms": c.connect_timeout_ms, "idle_timeout_ms": c.idle_timeout_ms,
            "max_requests": c.max_requests_per_connection, "max_streams": c.max_streams, "max_age_ms": c.max_age_ms,
            "keepalive": {
                "time_s": c.keepalive_time_s, "interval_s": c.keepalive_interval_s, "probes": c.keepalive_probes,
            } if c.flags & CL_KEEPALIVE else None,
        },
        "limits": {
            "max_connections": c.max_connections, "max_pending": c.max_pending, "max_requests": c.max_requests,
            "max_retries": c.max_retries, "budget_ppm": c.budget_ppm, "budget_least": c.budget_least,
        },
        "outlier_detection": outlier_dict(c), "health_checks": health_dict(s, c),
        "levels": [{"first": lv[i].first, "endpoints": lv[i].n, "weight": lv[i].total_weight, "share": lv[i].share} for i in range(c.levels.n)],
        "endpoints": [endpoint_dict(s, &e[i]) for i in range(c.endpoints.n)],
    }


cdef list mirrors_list(const Snap *s, SnapArr mirrors):
    cdef const SnapMirror *m = <const SnapMirror *>first(s, mirrors)
    cdef const SnapCluster *c = <const SnapCluster *>first(s, s.h.clusters)
    return [
        {"cluster": None if m[i].cluster == SNAP_NONE else text(s, c[m[i].cluster].name), "ppm": m[i].ppm} for i in range(mirrors.n)
    ]


cdef dict cors_dict(const Snap *s, const SnapAction *a):
    cdef const SnapCors *p
    cdef const SnapOrigin *o
    if a.cors == SNAP_NONE:
        return None
    p = <const SnapCors *>first(s, s.h.cors) + a.cors
    o = <const SnapOrigin *>first(s, p.origins)
    return {
        "origins": [
            {"op": named(OPS, o[i].op), "value": text(s, pattern(s, o[i].regex) if o[i].op == OP_REGEX else o[i].value)}
            for i in range(p.origins.n)
        ],
        "methods": text(s, p.methods), "headers": text(s, p.headers), "expose": text(s, p.expose), "max_age": text(s, p.max_age),
        "credentials": bool(p.flags & CO_CREDENTIALS), "forward": bool(p.flags & CO_FORWARD),
    }


cdef list limits_list(const Snap *s, const SnapAction *a):
    cdef const SnapLimit *l = <const SnapLimit *>first(s, a.limits)
    return [
        {
            "name": text(s, l[i].name), "most": l[i].most, "fill": l[i].fill, "fill_ms": l[i].fill_ms,
            "per": "identity" if l[i].per == PER_IDENTITY else "route",
        } for i in range(a.limits.n)
    ]


cdef SnapStr pattern(const Snap *s, uint32_t regex):
    return (<const SnapStr *>first(s, s.h.regexes))[regex]


cdef dict action_dict(const Snap *s, const SnapAction *a, const RouteMatch *rm):
    cdef const uint32_t *statuses = <const uint32_t *>first(s, a.retry_statuses)
    found = {
        "kind": named(ACTIONS, a.kind), "request_headers": ops_list(s, a.request_ops), "response_headers": ops_list(s, a.response_ops),
        "cors": cors_dict(s, a), "rate_limits": limits_list(s, a),
    }
    if a.kind == ACT_DIRECT:
        return {**found, "status": a.status, "body": text(s, a.body)}
    if a.kind == ACT_REDIRECT:
        return {
            **found, "status": a.status, "scheme": text(s, a.redirect_scheme), "authority": text(s, a.redirect_host),
            "port": a.redirect_port, "path": text(s, a.redirect_path), "replaces": named(REWRITES, a.rewrite_op), "matched": rm.prefix_n,
        }
    return {
        **found,
        "rewrite": {
            "replaces": named(REWRITES, a.rewrite_op), "path": text(s, a.rewrite_path), "matched": rm.prefix_n,
            "authority": text(s, a.rewrite_host),
            "regex": "" if a.rewrite_regex == SNAP_NONE else text(s, pattern(s, a.rewrite_regex)),
        },
        "timeout_ms": a.timeout_ms,
        "retries": {
            "attempts": a.retries, "retry_on": a.retry_on, "statuses": [statuses[i] for i in range(a.retry_statuses.n)],
            "per_try_timeout_ms": a.per_try_timeout_ms, "backoff_base_ms": a.backoff_base_ms, "backoff_most_ms": a.backoff_most_ms,
            "remote_localities": bool(a.flags & AF_RETRY_ANYWHERE), "same_endpoint": bool(a.flags & AF_RETRY_SAME),
        },
        "fault": {
            "delay_ppm": a.delay_ppm, "delay_ms": a.delay_ms, "abort_ppm": a.abort_ppm, "abort_status": a.abort_status,
            "abort_grpc": a.abort_grpc - 1 if a.abort_grpc else None,
        },
        "mirrors": mirrors_list(s, a.mirrors),
    }


# ---- what a condition looks at -----------------------------------------------------------------------------------------------------

cdef object header_of(const Msg *m, str name):
    # as it would be compared: several fields are joined (RFC 9110 5.2); one that a hop takes away is not there
    values = [
        said(m.hdr[i].value, m.hdr[i].value_n) for i in range(m.nhdr)
        if not m.hdr[i].flags & HF_DROP and said(m.hdr[i].name, m.hdr[i].name_n).lower() == name.lower()
    ]
    return ",".join(values) if values else None


cdef object looked_at(const Msg *m, dict cond):
    """The request's side of a condition that did not hold, for people: judged by the matcher, not by this. None: it has none."""
    if cond["on"] == "header":
        return header_of(m, cond["name"])
    if cond["on"] == "query":
        pairs = [pair.partition("=") for pair in said(m.query.p, m.query.n).split("&")]
        return next((value for name, _, value in pairs if name == cond["name"]), None)
    if cond["on"] == "method":
        return said(m.method_name.p, m.method_name.n)
    if cond["on"] == "authority":
        return said(m.host.p, m.host.n)
    return None


# ---- the question ------------------------------------------------------------------------------------------------------------------

cdef class Stage:
    """A copy of a snapshot, and somewhere to rehearse. router_load is in force while it lives."""
    cdef Snap s
    cdef char *raw
    cdef Segment segment         # nobody's: it takes what the rehearsals count
    cdef SegMap seg
    cdef bytes identity          # the peer's SPIFFE ID
    cdef Slice claimed           # ... borrowed

    def __cinit__(self, bytes raw, bytes identity=b""):
        cdef SnapFault why
        if len(raw) < sizeof(SnapHeader):
            raise ValueError("no snapshot: less than a header")
        if snap_fault(raw, len(raw), &why) != FM_OK:
            raise ValueError(f"no snapshot: {why.section.decode()}[{why.index}]: {why.what.decode()}")
        self.identity = identity
        self.claimed = slice_of(<const char *>self.identity, len(identity))
        self.raw = <char *>malloc(len(raw))
        if self.raw == NULL:
            raise MemoryError
        memcpy(self.raw, <char *>raw, len(raw))
        snap_open(&self.s, self.raw)
        self.segment = Segment.create(1)
        if segment_map(self.segment, 0, &self.seg) != FM_OK:
            raise MemoryError
        if router_load(&self.s) != FM_OK:
            raise ValueError("a regular expression of the snapshot cannot be compiled")

    def __dealloc__(self):
        router_forget()
        free(self.raw)

    cdef const SnapListener *listener(self, str name):
        cdef const SnapListener *l = <const SnapListener *>first(&self.s, self.s.h.listeners)
        cdef uint32_t i
        for i in range(self.s.h.listeners.n):
            if text(&self.s, l[i].name) == name:
                return &l[i]
        return NULL

    cdef dict rehearse(self, const SnapListener *l, bytes head, bint tls, int code=FM_OK):
        """Either {"answer": ...} or {"sent": ...}, and what is known of the request then. A code other than FM_OK is what happens to it."""
        cdef Rehearsal *r = rehearsal_new(&self.seg, &self.s, l)
        if r == NULL:
            raise MemoryError
        try:
            r.w.claimed = self.claimed
            r.mtls = self.claimed.n != 0
            rehearsal_run(r, head, len(head), tls, code)
            found = {"grpc": bool(r.grpc)}
            if l.authz != SNAP_NONE:
                found["authorization"] = authz_dict(r)
            fields = [line.split(": ", 1) for line in said(r.fields, r.n).split("\n") if line]
            if r.taken:
                found["left_ms"] = r.left_ms
                found["hash_key"] = r.hash_key if r.hashed else None
                found["sent"] = {"target": said(r.target.p, r.target.n), "headers": fields}
                found["repeatable"] = bool(r.replayable) and r.w.req.content_length <= REPLAY_BYTES
            else:
                found["answer"] = {
                    "status": 0 if r.broken else r.status, "flags": [FLAG_NAMES[bit] for bit in FLAG_NAMES if r.rf & bit],
                    "details": r.details.decode() if r.details != NULL else "", "headers": [f for f in fields if f[0] != "date"],
                    "body": said(r.body.p, r.body.n),
                }
            return found
        finally:
            rehearsal_free(r)

    cdef list dests(self, const SnapAction *a, const SnapListener *l, bytes head, bint tls):
        # The choice by weight is chance: each is given all the weight in turn, in this copy.
        cdef SnapDest *d = <SnapDest *>(self.raw + a.dests.off)
        cdef const SnapCluster *c = <const SnapCluster *>first(&self.s, self.s.h.clusters)
        cdef HashWalk walk
        cdef SnapCluster part
        cdef uint32_t i, k, place
        weights = [d[i].weight for i in range(a.dests.n)]
        made = []
        before = 0
        for i in range(a.dests.n):
            dest = {
                "weight": weights[i] - before, "total_weight": a.total_weight,
                "request_headers": ops_list(&self.s, d[i].request_ops), "response_headers": ops_list(&self.s, d[i].response_ops),
                "cluster": None if d[i].cluster == SNAP_NONE else cluster_dict(&self.s, &c[d[i].cluster]),
            }
            made.append(dest)
            before = weights[i]
            for k in range(a.dests.n):
                d[k].weight = 0 if k < i else a.total_weight
            dest.update(self.rehearse(l, head, tls))
            if "sent" in dest and (a.abort_ppm >= MILLION or not dest["cluster"]["endpoints"]):
                del dest["sent"]
                dest.update(self.rehearse(l, head, tls, RE_FAULT if a.abort_ppm >= MILLION else FM_ENOHEALTHY))
            for k in range(a.dests.n):
                d[k].weight = weights[k]
            if dest.get("hash_key") is not None and dest["cluster"]["endpoints"]:
                part = c[d[i].cluster]
                if part.levels.n:  # each has a table of its own: that of the nearest one
                    part.hash_table = (<const SnapLevel *>first(&self.s, part.levels)).hash_table
                hash_begin(&walk, &self.s, &part, dest["hash_key"])
                if hash_next(&walk, &place):
                    dest["hash_endpoint"] = dest["cluster"]["endpoints"][place]["address"]
        return made

    cdef dict routed(self, const SnapListener *l, bytes head, bint tls):
        """Virtual host, routes that were passed over, route and action: as far as there are any."""
        cdef Snap *s = &self.s
        cdef Msg m
        cdef Slice judged
        cdef bytes spelt             # m.path may lie in it
        cdef RouteMatch rm
        cdef const SnapVhost *v
        cdef const SnapRoute *r
        cdef uint32_t i
        cdef int why
        memset(&m, 0, sizeof(Msg))
        if h1_request_head(head, len(head), 0, &m) != <int>len(head):
            return {}
        h1_body_request(&m)
        if hygiene_request(&m, (m.flags & MF_UPGRADE) != 0 and m.body == BODY_NONE) != FM_OK:
            return {}
        if l.authz != SNAP_NONE and (<const SnapAuthz *>first(s, s.h.authz))[l.authz].flags & AZ_PATH:
            spelt = PyBytes_FromStringAndSize(NULL, 2 * m.path.n)
            if path_normalize(m.path, <char *>spelt, &m.path, &judged) == PATH_REFUSED:
                return {}
        v = router_vhost(s, l.table, &m)
        if v == NULL:
            return {}
        r = <const SnapRoute *>first(s, v.routes)
        found = {
            "virtual_host": {"index": v - <const SnapVhost *>first(s, s.h.vhosts), "name": text(s, v.name), "routes": v.routes.n},
            "passed": [],
        }
        for i in range(v.routes.n):
            why = router_obstacle(s, &r[i], &m, tls, l.port)
            if why == ROUTE_TAKES:
                break
            passed = route_dict(s, &r[i], i)
            passed["failed"] = "path" if why == ROUTE_PATH else why
            passed["have"] = said(m.path.p, m.path.n) if why == ROUTE_PATH else looked_at(&m, passed["conditions"][why])
            found["passed"].append(passed)
        if router_match(s, l.table, &m, tls, l.port, 0, &rm) != FM_OK:
            return found
        found["route"] = route_dict(s, rm.route, <uint32_t>(rm.route - r))
        found["action"] = action_dict(s, rm.action, &rm)
        if rm.action.kind == ACT_FORWARD:
            found["action"]["destinations"] = self.dests(rm.action, l, head, tls)
        return found


def listeners(bytes snapshot) -> list[dict]:
    """The listeners of a snapshot: name, kind, port, tls_mode, https_redirect."""
    cdef Stage stage = Stage(snapshot)
    cdef const SnapListener *l = <const SnapListener *>first(&stage.s, stage.s.h.listeners)
    return [listener_dict(&stage.s, &l[i]) for i in range(stage.s.h.listeners.n)]


def refusal(bytes snapshot, str listener, bytes head, bint tls, str why, bytes identity=b"") -> dict:
    """The "answer" to a request that would be sent on when this happens to it: a word of CODES."""
    cdef Stage stage = Stage(snapshot, identity)
    cdef const SnapListener *l = stage.listener(listener)
    if l == NULL:
        raise KeyError(listener)
    return stage.rehearse(l, head, tls, CODES[why])["answer"]


def explain(bytes snapshot, str listener, bytes head, bint tls, bytes identity=b"") -> dict:
    """What becomes of an HTTP/1 request head that comes by this listener, from a peer that has shown this SPIFFE ID. `outcome` is "forward" (see action.destinations: each has what
    would be "sent", or the "answer" in its place), "direct", "redirect", "https_redirect", "plaintext_refused", or "refused"; all but the
    first have an "answer" (status 0: the connection is closed). KeyError: no such listener; ValueError: no snapshot."""
    cdef Stage stage = Stage(snapshot, identity)
    cdef const SnapListener *l = stage.listener(listener)
    if l == NULL:
        raise KeyError(listener)
    found = {"generation": stage.s.generation, "listener": listener_dict(&stage.s, l), "passed": []}
    if l.tls_mode == TLS_STRICT and not tls:
        return {**found, "outcome": "plaintext_refused"}
    result = stage.rehearse(l, head, tls)
    found["grpc"] = result["grpc"]
    if l.authz != SNAP_NONE:
        found["authorization"] = result["authorization"]
        if result["authorization"]["denied"] or result.get("answer", {}).get("details") == "path_normalization_failed":
            return {**found, "outcome": "refused", "answer": result["answer"]}
    if l.flags & LF_HTTPS_REDIRECT and not tls:
        redirected = result["answer"]["status"] == 301
        return {**found, "outcome": "https_redirect" if redirected else "refused", "answer": result["answer"]}
    found.update(stage.routed(l, head, tls))
    kind = found["action"]["kind"] if "action" in found else ""
    if kind == "forward":
        return {**found, "outcome": "forward"}
    refused = not kind or bool(result["answer"]["flags"]) or result["answer"]["status"] == 0
    return {**found, "outcome": "refused" if refused else kind, "answer": result["answer"]}
