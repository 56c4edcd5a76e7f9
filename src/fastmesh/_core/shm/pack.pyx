"""BORDER (L1): class Packer, which writes the elements of a snapshot; compile/snapshot.py drives it.

Owns what each element says. Must not know: the dicts of a config, workers, memfds, where sections end up (shm/sections.pyx). Order of
calls: what is named by index first (regexes, header operations, clusters, ...). A (first, n) pair names a run of elements that were added
one after the other; () is none.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastmesh._core.base.regex cimport RE_WHY, regex_free, regex_new, regex_rewrite_ok
from fastmesh._core.shm.authztab cimport (
    AO_EXACT, AO_GLOB, AO_NET, AO_PREFIX, AO_SUFFIX, AO_TEMPLATE, SnapAuthz, SnapAuthzDim, SnapAuthzKey, authz_hash)
from fastmesh._core.shm.hashtab cimport hashtab_make
from fastmesh._core.shm.sections cimport (
    V_ACTIONS, V_AUTHZ, V_AUTHZ_DIMS, V_AUTHZ_KEYS, V_BLOB, V_CLUSTERS, V_CONDS, V_CORS, V_DESTS, V_ENDPOINTS, V_HDROPS, V_HOSTS, V_LEVELS,
    V_LIMITS, V_LISTENERS, V_MIRRORS, V_ORIGINS, V_PATHS, V_ROUTES, V_TABLES, V_TLS, V_U32S, V_VHOSTS, Sections)
from fastmesh._core.shm.snapshot cimport (
    CL_EQUAL, CL_KEEPALIVE, LF_CAPTURED, OP_EXACT, OP_PATH_PREFIX, OP_PREFIX, SNAP_MAX_LENGTHS, SNAP_MAX_PATTERN, SNAP_NONE, SnapAction, SnapArr,
    SnapCluster, SnapCond, SnapCors, SnapDest, SnapEndpoint, SnapHdrOp, SnapHealth, SnapHost, SnapLevel, SnapLimit, SnapListener,
    SnapMirror, SnapOrigin, SnapOutlier, SnapPath, SnapRoute, SnapStr, SnapTable, SnapTls, SnapVhost, fnv64, host_hash, path_hash)
from fastmesh._core.shm.stride cimport rr_stride

NONE = <uint32_t>SNAP_NONE         # no index

cdef enum:
    LINEAR = 12                    # routes of a virtual host that are looked at one after the other: no index is as fast


def regex_check(pattern: bytes) -> str | None:
    """None if RE2 takes the pattern within its memory bound, else why not."""
    cdef char why[RE_WHY]
    cdef const char *p = pattern
    cdef void *re
    if len(pattern) > SNAP_MAX_PATTERN:
        return f"longer than {SNAP_MAX_PATTERN} bytes"
    re = regex_new(p, <uint32_t>len(pattern), why)
    if re == NULL:
        return why.decode("utf-8", "replace")
    regex_free(re)
    return None


def rewrite_check(pattern: bytes, rewrite: bytes) -> str | None:
    """None if RE2 can use the rewrite for matches of the pattern (which regex_check takes), else why not."""
    cdef char why[RE_WHY]
    cdef void *re = regex_new(pattern, <uint32_t>len(pattern), why)
    cdef bint good
    if re == NULL:
        return why.decode("utf-8", "replace")
    good = regex_rewrite_ok(re, rewrite, <uint32_t>len(rewrite), why)
    regex_free(re)
    return None if good else why.decode("utf-8", "replace")


def fnv1a(data: bytes) -> int:
    """FNV-1a 64: the hash of names, tags and TLS contexts."""
    return fnv64(data, len(data))


cdef class Packer(Sections):
    """Adds elements; regex() and finish() are those of Sections."""

    def hdr_op(self, op: int, hid: int, name: str, value: str = "") -> int:
        cdef SnapStr n = self.text(name)
        cdef SnapStr v = self.text(value)
        cdef SnapHdrOp *o = <SnapHdrOp *>self.grow(V_HDROPS, sizeof(SnapHdrOp))
        o.op = op
        o.hid = hid
        o.name = n
        o.value = v
        return self.count(V_HDROPS, sizeof(SnapHdrOp)) - 1

    def tls(self, name: str, *, key: int, flags: int, min_version: int, cert: bytes, private_key: bytes, ca: bytes, alpn: bytes,
            trust_domain: str, hosts: list[str], denied: bytes = b"") -> int:
        cdef SnapTls t
        memset(&t, 0, sizeof(t))
        t.key = key
        t.flags = flags
        t.min_version = min_version
        t.name = self.text(name)
        t.cert = self.text(cert)
        t.private_key = self.text(private_key)
        t.ca = self.text(ca)
        t.alpn = self.text(alpn)
        t.trust_domain = self.text(trust_domain)
        t.hosts = self.str_list(hosts)
        t.denied = self.text(denied)
        (<SnapTls *>self.grow(V_TLS, sizeof(SnapTls)))[0] = t
        return self.count(V_TLS, sizeof(SnapTls)) - 1

    def endpoint(self, *, family: int, addr: bytes, port: int, flags: int, cell: int, weight: int, text: str, workload: str, tag: int) -> int:
        cdef SnapEndpoint e
        cdef const char *a = addr
        memset(&e, 0, sizeof(e))
        if len(addr) > 16:
            raise ValueError("address")
        e.family = family
        e.flags = flags
        e.port = port
        e.cell = cell
        memcpy(e.addr, a, len(addr))
        e.weight = weight
        e.text = self.text(text)
        e.workload = self.text(workload)
        e.tag = tag
        (<SnapEndpoint *>self.grow(V_ENDPOINTS, sizeof(SnapEndpoint)))[0] = e
        return self.count(V_ENDPOINTS, sizeof(SnapEndpoint)) - 1

    def cluster(self, name: str, *, service: str, endpoints: tuple, lb: int, flags: int, connect_timeout_ms: int, idle_timeout_ms: int,
                max_requests_per_connection: int, max_connections: int, max_streams: int, tls: int, sni: str, sans: list[str], tls_policy: int,
                cell: int = 0) -> int:
        """Add them in the order of cluster ids. `endpoints` are those added just before; total weight, CL_EQUAL and the stride come
        from them."""
        cdef SnapCluster k
        cdef SnapEndpoint *e
        cdef uint64_t total = 0
        cdef uint32_t i
        memset(&k, 0, sizeof(k))
        k.name = self.text(name)
        k.id = fnv64(self.v[V_BLOB].p + k.name.off, k.name.n)
        k.service = self.text(service)
        k.endpoints = self.run(endpoints, sizeof(SnapEndpoint))
        e = <SnapEndpoint *>(self.v[V_ENDPOINTS].p + k.endpoints.off)
        k.flags = flags | CL_EQUAL
        for i in range(k.endpoints.n):
            total += e[i].weight
            e[i].upto = <uint32_t>total
            if e[i].weight != e[0].weight:
                k.flags &= ~<uint32_t>CL_EQUAL
        if total > 0xffffffff:
            raise ValueError("weights: their sum is too large")
        k.total_weight = <uint32_t>total
        k.rr_stride = rr_stride(total)
        k.lb = lb
        k.connect_timeout_ms = connect_timeout_ms
        k.idle_timeout_ms = idle_timeout_ms
        k.max_requests_per_connection = max_requests_per_connection
        k.max_connections = max_connections
        k.max_streams = max_streams
        k.tls = tls
        k.sni = self.text(sni)
        k.sans = self.str_list(sans)
        k.tls_policy = tls_policy
        k.cell = cell
        (<SnapCluster *>self.grow(V_CLUSTERS, sizeof(SnapCluster)))[0] = k
        return self.count(V_CLUSTERS, sizeof(SnapCluster)) - 1

    cdef SnapCluster *cluster_at(self, index) except NULL:
        if not 0 <= index < self.count(V_CLUSTERS, sizeof(SnapCluster)):
            raise IndexError(f"cluster {index}")
        return <SnapCluster *>self.v[V_CLUSTERS].p + <uint32_t>index

    def cluster_limits(self, index: int, *, max_pending: int = 0, max_requests: int = 0, max_retries: int = 0, budget_ppm: int = 0,
                       budget_least: int = 0, max_age_ms: int = 0) -> None:
        """Circuit breaking and the retry budget of a cluster that was added; 0: no limit."""
        cdef SnapCluster *k = self.cluster_at(index)
        k.max_pending = max_pending
        k.max_requests = max_requests
        k.max_retries = max_retries
        k.budget_ppm = budget_ppm
        k.budget_least = budget_least
        k.max_age_ms = max_age_ms

    def cluster_outlier(self, index: int, fields: tuple, panic_percent: int) -> None:
        """When endpoints of a cluster that was added are ejected: SnapOutlier's fields in their order."""
        cdef SnapOutlier *o = &self.cluster_at(index).outlier
        (o.consecutive_5xx, o.consecutive_gateway, o.consecutive_local, o.interval_ms, o.base_ms, o.most_ms, o.max_percent, o.flags,
         o.rate_hosts, o.rate_volume, o.rate_stdev_milli, o.failure_percent, o.failure_hosts, o.failure_volume) = fields
        self.cluster_at(index).panic_percent = panic_percent

    def cluster_health(self, index: int, fields: tuple, *, path: str, host: str, service: str, expected: list[int]) -> None:
        """Active health checks of a cluster that was added: SnapHealth's numbers from `kind` to `healthy`, in their order but for flags,
        and the statuses that are a success, from and to of each range."""
        cdef SnapHealth *h = &self.cluster_at(index).health
        h.kind, h.port, h.interval_ms, h.jitter_percent, h.timeout_ms, h.unhealthy, h.healthy = fields
        h.path = self.text(path)
        h.host = self.text(host)
        h.service = self.text(service)
        h.expected = self.u32_list(expected)

    def cluster_keepalive(self, index: int, *, time_s: int, interval_s: int, probes: int) -> None:
        """TCP keep-alive on the connections of a cluster that was added; 0: the system's value."""
        cdef SnapCluster *k = self.cluster_at(index)
        k.flags |= CL_KEEPALIVE
        k.keepalive_time_s = time_s
        k.keepalive_interval_s = interval_s
        k.keepalive_probes = probes

    cdef SnapArr hash_table(self, const SnapEndpoint *e, uint32_t n, int lb, uint32_t size) except *:
        """The table of a run of endpoints."""
        cdef SnapArr made
        cdef uint32_t words = 0
        cdef uint32_t *table = hashtab_make(e, n, self.v[V_BLOB].p, lb, size, &words)
        if table == NULL and n:
            raise MemoryError()
        made.off = <uint32_t>self.v[V_U32S].n
        made.n = words
        try:
            if words:
                memcpy(self.grow(V_U32S, words * sizeof(uint32_t)), table, words * sizeof(uint32_t))
        finally:
            free(table)
        return made

    def cluster_hash(self, index: int, *, on: int, name: str, path: str, ttl_s: int, size: int) -> None:
        """Consistent hashing of a cluster that was added: `size` is the least number of points of a ring, or Maglev's slots;
        0: its levels have the tables."""
        cdef SnapCluster *k = self.cluster_at(index)
        if size:
            k.hash_table = self.hash_table(<SnapEndpoint *>(self.v[V_ENDPOINTS].p + k.endpoints.off), k.endpoints.n, k.lb, size)
        k.hash_name = self.text(name)
        k.hash_path = self.text(path)
        k.hash_on = on
        k.hash_ttl_s = ttl_s

    def cluster_levels(self, index: int, levels: list, hash_size: int = 0) -> None:
        """Part the endpoints of a cluster that was added into levels, nearest first: (how many, share). With consistent hashing after
        cluster_hash, whose table the levels' own take the place of; `hash_size` as there."""
        cdef SnapCluster *k = self.cluster_at(index)
        cdef SnapLevel l
        cdef SnapEndpoint *e
        cdef uint32_t first = 0
        cdef uint32_t i
        if sum(n for n, _ in levels) != k.endpoints.n:
            raise ValueError("levels: they are not of this cluster's endpoints")
        k.levels.off = <uint32_t>self.v[V_LEVELS].n
        k.levels.n = <uint32_t>len(levels)
        for n, share in levels:
            memset(&l, 0, sizeof(l))
            l.first = first
            l.n = n
            l.share = share
            e = <SnapEndpoint *>(self.v[V_ENDPOINTS].p + k.endpoints.off) + first
            for i in range(l.n):
                l.total_weight += e[i].weight
                e[i].upto = l.total_weight
            l.rr_stride = rr_stride(l.total_weight)
            if hash_size:
                l.hash_table = self.hash_table(e, l.n, k.lb, hash_size)
            first += l.n
            (<SnapLevel *>self.grow(V_LEVELS, sizeof(SnapLevel)))[0] = l

    def cluster_shape(self, index: int, *, decay_ms: int = 0, warm_ms: int = 0, warm_least_percent: int = 0,
                      warm_aggression_centi: int = 100) -> None:
        """How load balancing of a cluster that was added weighs what it sees; 0: not at all."""
        cdef SnapCluster *k = self.cluster_at(index)
        k.decay_ms = decay_ms
        k.warm_ms = warm_ms
        k.warm_least_percent = warm_least_percent
        k.warm_aggression_centi = warm_aggression_centi

    def dest(self, *, cluster: int, weight: int, request_ops: tuple = (), response_ops: tuple = ()) -> int:
        """`weight` is cumulative within its action."""
        cdef SnapDest d
        memset(&d, 0, sizeof(d))
        d.cluster = cluster
        d.weight = weight
        d.request_ops = self.run(request_ops, sizeof(SnapHdrOp))
        d.response_ops = self.run(response_ops, sizeof(SnapHdrOp))
        (<SnapDest *>self.grow(V_DESTS, sizeof(SnapDest)))[0] = d
        return self.count(V_DESTS, sizeof(SnapDest)) - 1

    def action(self, kind: int, *, status: int = 0, dests: tuple = (), total_weight: int = 0, request_ops: tuple = (),
               response_ops: tuple = (), rewrite_op: int = 0, rewrite_path: str = "", rewrite_host: str = "", redirect_scheme: str = "",
               redirect_host: str = "", redirect_path: str = "", redirect_port: int = 0, body: bytes = b"", timeout_ms: int = 0,
               per_try_timeout_ms: int = 0, retries: int = 0, retry_on: int = 0) -> int:
        cdef SnapAction a
        memset(&a, 0, sizeof(a))
        a.kind = kind
        a.rewrite_op = rewrite_op
        a.status = status
        a.total_weight = total_weight
        a.dests = self.run(dests, sizeof(SnapDest))
        a.request_ops = self.run(request_ops, sizeof(SnapHdrOp))
        a.response_ops = self.run(response_ops, sizeof(SnapHdrOp))
        a.rewrite_path = self.text(rewrite_path)
        a.rewrite_host = self.text(rewrite_host)
        a.redirect_scheme = self.text(redirect_scheme)
        a.redirect_host = self.text(redirect_host)
        a.redirect_path = self.text(redirect_path)
        a.redirect_port = redirect_port
        a.body = self.text(body)
        a.timeout_ms = timeout_ms
        a.per_try_timeout_ms = per_try_timeout_ms
        a.retries = retries
        a.retry_on = retry_on
        a.rewrite_regex = a.cors = NONE
        (<SnapAction *>self.grow(V_ACTIONS, sizeof(SnapAction)))[0] = a
        return self.count(V_ACTIONS, sizeof(SnapAction)) - 1

    cdef SnapAction *action_at(self, index) except NULL:
        if not 0 <= index < self.count(V_ACTIONS, sizeof(SnapAction)):
            raise IndexError(f"action {index}")
        return <SnapAction *>self.v[V_ACTIONS].p + <uint32_t>index

    def action_retry(self, index: int, *, statuses: list[int], backoff_base_ms: int, backoff_most_ms: int, flags: int) -> None:
        """How the retries of an action that was added are made."""
        cdef SnapAction *a = self.action_at(index)
        a.retry_statuses = self.u32_list(statuses)
        a.backoff_base_ms = backoff_base_ms
        a.backoff_most_ms = backoff_most_ms
        a.flags |= flags

    def action_fault(self, index: int, *, delay_ppm: int, delay_ms: int, abort_ppm: int, abort_status: int, abort_grpc: int) -> None:
        """The faults of an action that was added; abort_grpc: the status + 1."""
        cdef SnapAction *a = self.action_at(index)
        a.delay_ppm = delay_ppm
        a.delay_ms = delay_ms
        a.abort_ppm = abort_ppm
        a.abort_status = abort_status
        a.abort_grpc = abort_grpc

    def action_rewrite_regex(self, index: int, regex: int) -> None:
        """The pattern whose matches in the path of an action that was added become rewrite_path (its rewrite_op is RW_REGEX)."""
        self.action_at(index).rewrite_regex = regex

    def action_mirrors(self, index: int, mirrors: list[tuple[int, int]]) -> None:
        """Where copies of the requests of an action that was added go: (cluster, parts per million)."""
        cdef SnapMirror *m
        cdef uint32_t first = self.count(V_MIRRORS, sizeof(SnapMirror))
        for cluster, ppm in mirrors:
            m = <SnapMirror *>self.grow(V_MIRRORS, sizeof(SnapMirror))
            m.cluster = cluster
            m.ppm = ppm
        self.action_at(index).mirrors = self.run((first, len(mirrors)), sizeof(SnapMirror))

    def action_cors(self, index: int, *, origins: list[tuple[int, int, str]], flags: int, methods: str, headers: str, expose: str,
                    max_age: str) -> None:
        """The CORS policy of an action that was added; origins: (operator, regex, value)."""
        cdef SnapCors c
        cdef SnapOrigin o
        cdef SnapStr value
        memset(&c, 0, sizeof(c))
        c.origins.off = self.count(V_ORIGINS, sizeof(SnapOrigin)) * sizeof(SnapOrigin)
        c.origins.n = len(origins)
        for op, regex, text in origins:
            memset(&o, 0, sizeof(o))
            o.op = op
            o.regex = regex
            o.value = self.text(text)
            (<SnapOrigin *>self.grow(V_ORIGINS, sizeof(SnapOrigin)))[0] = o
        c.methods = self.text(methods)
        c.headers = self.text(headers)
        c.expose = self.text(expose)
        c.max_age = self.text(max_age)
        c.flags = flags
        (<SnapCors *>self.grow(V_CORS, sizeof(SnapCors)))[0] = c
        self.action_at(index).cors = self.count(V_CORS, sizeof(SnapCors)) - 1

    def limit(self, name: str, *, id: int, most: int, fill: int, fill_ms: int, per: int, who: int = 0) -> int:
        """`who`: fnv1a of a SPIFFE ID."""
        cdef SnapLimit l
        memset(&l, 0, sizeof(l))
        l.id = id
        l.name = self.text(name)
        l.most = most
        l.fill = fill
        l.fill_ms = fill_ms
        l.per = per
        l.who = who
        (<SnapLimit *>self.grow(V_LIMITS, sizeof(SnapLimit)))[0] = l
        return self.count(V_LIMITS, sizeof(SnapLimit)) - 1

    def action_limits(self, index: int, limits: tuple) -> None:
        """The rate limits of an action that was added."""
        self.action_at(index).limits = self.run(limits, sizeof(SnapLimit))

    def cond(self, *, on: int, op: int, flags: int, hid: int, name: str, value, number: int, regex: int = NONE) -> int:
        """`value`: text, or bytes of networks."""
        cdef SnapCond c
        memset(&c, 0, sizeof(c))
        c.on = on
        c.op = op
        c.flags = flags
        c.hid = hid
        c.regex = regex
        c.name = self.text(name)
        c.value = self.text(value)
        c.number = number
        (<SnapCond *>self.grow(V_CONDS, sizeof(SnapCond)))[0] = c
        return self.count(V_CONDS, sizeof(SnapCond)) - 1

    def route(self, name: str, *, path_op: int, path: str, flags: int, conds: tuple, action: int, regex: int = NONE) -> int:
        cdef SnapRoute r
        memset(&r, 0, sizeof(r))
        r.path_op = path_op
        r.flags = flags
        r.regex = regex
        r.path = self.text(path)
        r.conds = self.run(conds, sizeof(SnapCond))
        r.action = action
        r.name = self.text(name)
        (<SnapRoute *>self.grow(V_ROUTES, sizeof(SnapRoute)))[0] = r
        return self.count(V_ROUTES, sizeof(SnapRoute)) - 1

    cdef uint64_t route_hash(self, const SnapRoute *r):
        """0: no hash leads to it."""
        cdef const char *path = self.v[V_BLOB].p + r.path.off
        if r.path.n == 0 or (r.path_op != OP_EXACT and r.path_op != OP_PREFIX and r.path_op != OP_PATH_PREFIX):
            return 0
        return path_hash(path, r.path.n, r.path_op != OP_EXACT)

    cdef index_paths(self, SnapVhost *h):
        """Where routes are many: which of them a path can be for, by the path and by each of its prefixes."""
        cdef const SnapRoute *r = <const SnapRoute *>(self.v[V_ROUTES].p + h.routes.off)
        cdef SnapPath *bucket
        cdef uint64_t hash
        cdef uint32_t i, mask
        lengths = {}
        for i in range(h.routes.n):
            if r[i].path_op != OP_EXACT and self.route_hash(&r[i]):
                lengths[r[i].path.n] = lengths.get(r[i].path.n, 0) + 1
        kept = set(sorted(lengths, key=lengths.get, reverse=True)[:SNAP_MAX_LENGTHS])
        found = {}
        others = []
        for i in range(h.routes.n):
            hash = self.route_hash(&r[i])
            if hash == 0 or (r[i].path_op != OP_EXACT and r[i].path.n not in kept):
                others.append(i)
            else:
                found.setdefault(hash, []).append(i)
        h.lengths = self.u32_list(sorted(kept))
        h.others = self.u32_list(others)
        h.paths.n = 2
        while h.paths.n < 2 * len(found):
            h.paths.n *= 2
        h.paths.off = <uint32_t>self.v[V_PATHS].n
        bucket = <SnapPath *>self.grow(V_PATHS, h.paths.n * sizeof(SnapPath))
        mask = h.paths.n - 1
        for key, value in found.items():
            hash = key
            i = <uint32_t>hash & mask
            while bucket[i].hash != 0:
                i = (i + 1) & mask
            bucket[i].hash = hash
            bucket[i].routes = self.u32_list(value)

    def vhost(self, name: str, routes: tuple) -> int:
        cdef SnapVhost h
        memset(&h, 0, sizeof(h))
        h.name = self.text(name)
        h.routes = self.run(routes, sizeof(SnapRoute))
        if h.routes.n > LINEAR:
            self.index_paths(&h)
        (<SnapVhost *>self.grow(V_VHOSTS, sizeof(SnapVhost)))[0] = h
        return self.count(V_VHOSTS, sizeof(SnapVhost)) - 1

    def table(self, name: str, hosts: list, any_vhost: int, max_labels: int) -> int:
        """`hosts`: (host, wildcard, vhost); a wildcard's host is its suffix with the dot. At most half of the buckets are taken."""
        cdef SnapTable t
        cdef SnapHost *bucket
        cdef SnapStr s
        cdef uint64_t hash
        cdef uint32_t i
        memset(&t, 0, sizeof(t))
        t.name = self.text(name)
        t.buckets = 2
        while t.buckets < 2 * len(hosts):
            t.buckets *= 2
        t.any_vhost = any_vhost
        t.max_labels = max_labels
        t.hosts_off = <uint32_t>self.v[V_HOSTS].n
        bucket = <SnapHost *>self.grow(V_HOSTS, t.buckets * sizeof(SnapHost))
        for host, wildcard, vhost in hosts:
            s = self.text(host)
            hash = host_hash(self.v[V_BLOB].p + s.off, s.n)
            i = <uint32_t>hash & (t.buckets - 1)
            while bucket[i].hash != 0:
                i = (i + 1) & (t.buckets - 1)
            bucket[i].hash = hash
            bucket[i].host = s
            bucket[i].vhost = vhost
            bucket[i].wildcard = 1 if wildcard else 0
        (<SnapTable *>self.grow(V_TABLES, sizeof(SnapTable)))[0] = t
        return self.count(V_TABLES, sizeof(SnapTable)) - 1

    def listener(self, name: str, *, kind: int, tls_mode: int, port: int, flags: int, table: int, tls: list[int]) -> int:
        cdef SnapListener l
        memset(&l, 0, sizeof(l))
        l.name = self.text(name)
        l.id = fnv64(self.v[V_BLOB].p + l.name.off, l.name.n)
        l.kind = kind
        l.tls_mode = tls_mode
        l.port = port
        l.flags = flags
        l.table = table
        l.authz = SNAP_NONE
        l.tcp_table = SNAP_NONE
        l.tls = self.u32_list(tls)
        (<SnapListener *>self.grow(V_LISTENERS, sizeof(SnapListener)))[0] = l
        return self.count(V_LISTENERS, sizeof(SnapListener)) - 1

    def listener_captured(self, listener: int, tcp_table: int, app_port: int):
        """Connections are redirected to it, with routes for what its own table is not for."""
        (<SnapListener *>self.v[V_LISTENERS].p)[listener].flags |= LF_CAPTURED
        (<SnapListener *>self.v[V_LISTENERS].p)[listener].tcp_table = tcp_table
        (<SnapListener *>self.v[V_LISTENERS].p)[listener].app_port = app_port

    def listener_authz(self, listener: int, authz: int):
        """The listener lets pass only what these policies allow."""
        (<SnapListener *>self.v[V_LISTENERS].p)[listener].authz = authz

    cdef SnapAuthzKey authz_key(self, int op, bytes value, list terms, uint32_t words) except *:
        cdef SnapAuthzKey k
        memset(&k, 0, sizeof(k))
        k.op = op
        k.value = self.text(value)
        k.hash = authz_hash(value, <uint32_t>len(value), op)
        k.dense = len(terms) > words
        k.terms = self.u32_list(bit_words(terms, words) if k.dense else terms)
        return k

    def authz_dim(self, *, on: int, negate: bool, name: str, keys: dict, base: list, words: int) -> int:
        """One attribute. keys: (AO_*, value) -> terms, ascending; base: the terms that do not ask for it (of a dimension that does not
        negate). Add the dimensions of one authz() one after the other."""
        cdef SnapAuthzDim d
        cdef SnapAuthzKey k
        cdef SnapAuthzKey *table
        cdef uint32_t n, i, buckets
        memset(&d, 0, sizeof(d))
        d.on = on
        d.negate = negate
        d.name = self.text(name)
        if not negate:
            d.base = self.u32_list(bit_words(base, words))
        slow = [(op, value) for op, value in keys if op == AO_TEMPLATE or op == AO_GLOB]
        fast = [(op, value) for op, value in keys if op != AO_TEMPLATE and op != AO_GLOB]
        d.longest = max([len(value) for op, value in fast if op == AO_EXACT], default=0)
        d.prefixes = self.u32_list(sorted({len(value) for op, value in fast if op == AO_PREFIX}))
        d.suffixes = self.u32_list(sorted({len(value) for op, value in fast if op == AO_SUFFIX}))
        d.nets = self.u32_list(sorted({value[0] << 8 | value[1] for op, value in fast if op == AO_NET}))
        if fast:
            buckets = 2
            while buckets < 2 * len(fast):
                buckets *= 2
            n = self.count(V_AUTHZ_KEYS, sizeof(SnapAuthzKey))
            self.grow(V_AUTHZ_KEYS, buckets * sizeof(SnapAuthzKey))
            d.buckets = self.run((n, buckets), sizeof(SnapAuthzKey))
            for op, value in fast:
                k = self.authz_key(op, value, keys[op, value], words)
                table = <SnapAuthzKey *>self.v[V_AUTHZ_KEYS].p + n
                i = <uint32_t>k.hash & (buckets - 1)
                while table[i].hash:
                    i = (i + 1) & (buckets - 1)
                table[i] = k
        n = self.count(V_AUTHZ_KEYS, sizeof(SnapAuthzKey))
        for op, value in slow:
            k = self.authz_key(op, value, keys[op, value], words)
            (<SnapAuthzKey *>self.grow(V_AUTHZ_KEYS, sizeof(SnapAuthzKey)))[0] = k
        d.slow = self.run((n, len(slow)) if slow else (), sizeof(SnapAuthzKey))
        (<SnapAuthzDim *>self.grow(V_AUTHZ_DIMS, sizeof(SnapAuthzDim)))[0] = d
        return self.count(V_AUTHZ_DIMS, sizeof(SnapAuthzDim)) - 1

    def authz(self, *, dims: tuple, names: list[str], http: list[int], flags: int, port: int, upto: list[int]) -> int:
        """Policies of a listener. names: of each term, "" where none is; http: terms that allow no bare connection; upto: the end of each
        group, in words."""
        cdef SnapAuthz a
        cdef uint32_t i
        memset(&a, 0, sizeof(a))
        a.words = upto[4]  # no negative index: wraparound is off
        a.dims = self.run(dims, sizeof(SnapAuthzDim))
        a.names = self.str_list(names)
        a.http = self.u32_list(bit_words(http, a.words))
        a.live = self.u32_list(bit_words([i for i, name in enumerate(names) if name], a.words))
        a.flags = flags
        a.port = port
        for i in range(5):
            a.upto[i] = upto[i]
        (<SnapAuthz *>self.grow(V_AUTHZ, sizeof(SnapAuthz)))[0] = a
        return self.count(V_AUTHZ, sizeof(SnapAuthz)) - 1


def bit_words(terms: list[int], words: int) -> list[int]:
    """A bit for each of them, in words of 32."""
    made = [0] * words
    for term in terms:
        made[term >> 5] |= 1 << (term & 31)
    return made
