"""BORDER (L1): class Packer, which writes the sections of a snapshot; compile/snapshot.py drives it.

Owns the byte layout of a generation. Must not know: the dicts of a config, workers, memfds. Offsets are kept relative to their section
while sections grow and made absolute once, in finish(). Order of calls: what is named by index first (regexes, header operations,
clusters, ...). A (first, n) pair names a run of elements that were added one after the other; () is none.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from fastmesh._core.base.regex cimport RE_WHY, regex_free, regex_new
from fastmesh._core.shm.hashtab cimport hashtab_make
from fastmesh._core.shm.layout cimport SNAP_SLOT_BYTES
from fastmesh._core.shm.snapshot cimport (
    CL_EQUAL, CL_KEEPALIVE, SNAP_MAGIC, SNAP_MAX_PATTERN, SNAP_MAX_REGEXES, SNAP_NONE, SNAP_VERSION, SnapAction, SnapArr, SnapCluster, SnapCond,
    SnapDest, SnapEndpoint, SnapHdrOp, SnapHeader, SnapHost, SnapListener, SnapOutlier, SnapRoute, SnapStr, SnapTable, SnapTls, SnapVhost,
    fnv64, host_hash)
from fastmesh._core.shm.stride cimport rr_stride

NONE = <uint32_t>SNAP_NONE         # no index

cdef enum:  # sections, in file order
    V_LISTENERS = 0
    V_TABLES
    V_HOSTS
    V_VHOSTS
    V_ROUTES
    V_CONDS
    V_ACTIONS
    V_DESTS
    V_HDROPS
    V_CLUSTERS
    V_ENDPOINTS
    V_TLS
    V_STRS
    V_U32S
    V_REGEXES
    V_BLOB
    V_N

cdef enum:
    # Bytes behind the last string. memcmp and friends load whole vectors under a mask: where such a load reaches into a page that is not
    # there, the processor takes a slow path on every call (measured: a route look-up of 50 ns took 340).
    TAIL = 64

cdef struct Vec:
    char *p
    size_t n
    size_t cap


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


def fnv1a(data: bytes) -> int:
    """FNV-1a 64: the hash of names, tags and TLS contexts."""
    return fnv64(data, len(data))


cdef inline void move(SnapStr *s, uint32_t base) noexcept nogil:
    # an empty string stays at offset 0: always within bounds
    if s.n != 0:
        s.off += base


cdef inline void move_arr(SnapArr *a, uint32_t base) noexcept nogil:
    if a.n != 0:
        a.off += base
    else:
        a.off = 0


cdef class Packer:
    """Collects the elements of one generation; finish() gives its bytes."""

    cdef Vec v[V_N]
    cdef dict strings              # bytes -> (offset in the blob, length)
    cdef dict patterns             # bytes -> index in regexes
    cdef bint done

    def __cinit__(self):
        memset(self.v, 0, sizeof(self.v))
        self.strings = {}
        self.patterns = {}

    def __dealloc__(self):
        for i in range(V_N):
            free(self.v[i].p)

    cdef void *grow(self, int section, size_t bytes) except NULL:
        """Room for so many bytes at the end of a section, zeroed; valid until the section grows again."""
        cdef Vec *v = &self.v[section]
        cdef size_t cap = v.cap
        cdef void *p
        if self.done:
            raise RuntimeError("finish() was called")
        if v.n + bytes > cap:
            while v.n + bytes > cap:
                cap = cap * 2 if cap else 4096
            if cap > 2 * <size_t>SNAP_SLOT_BYTES:
                raise ValueError(f"config: more than {SNAP_SLOT_BYTES} bytes when packed")
            p = realloc(v.p, cap)
            if p == NULL:
                raise MemoryError()
            v.p = <char *>p
            v.cap = cap
        p = v.p + v.n
        memset(p, 0, bytes)
        v.n += bytes
        return p

    cdef uint32_t count(self, int section, size_t size):
        return <uint32_t>(self.v[section].n / size)

    cdef SnapStr text(self, value) except *:
        cdef SnapStr s
        raw = value.encode() if isinstance(value, str) else value
        s.n = <uint32_t>len(raw)
        s.off = 0
        if s.n == 0:
            return s
        at = self.strings.get(raw)
        if at is None:
            at = self.v[V_BLOB].n
            memcpy(self.grow(V_BLOB, s.n), <const char *>raw, s.n)
            self.strings[raw] = at
        s.off = at
        return s

    cdef SnapArr run(self, pair, uint32_t size) except *:
        cdef SnapArr a
        a.off = a.n = 0
        if pair:
            a.off = <uint32_t>pair[0] * size
            a.n = pair[1]
        return a

    def regex(self, pattern: bytes) -> int:
        """The index of this pattern; check it before with regex_check."""
        cdef SnapStr s
        index = self.patterns.get(pattern)
        if index is None:
            index = self.count(V_REGEXES, sizeof(SnapStr))
            if index >= SNAP_MAX_REGEXES:
                raise ValueError(f"config: more than {SNAP_MAX_REGEXES} different regular expressions")
            s = self.text(pattern)
            (<SnapStr *>self.grow(V_REGEXES, sizeof(SnapStr)))[0] = s
            self.patterns[pattern] = index
        return index

    cdef SnapArr str_list(self, values) except *:
        cdef SnapArr a
        cdef SnapStr s
        a.off = <uint32_t>self.v[V_STRS].n
        a.n = <uint32_t>len(values)
        for value in values:
            s = self.text(value)
            (<SnapStr *>self.grow(V_STRS, sizeof(SnapStr)))[0] = s
        return a

    cdef SnapArr u32_list(self, values) except *:
        cdef SnapArr a
        a.off = <uint32_t>self.v[V_U32S].n
        a.n = <uint32_t>len(values)
        for value in values:
            (<uint32_t *>self.grow(V_U32S, sizeof(uint32_t)))[0] = value
        return a

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
            trust_domain: str, hosts: list[str]) -> int:
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
        """When endpoints of a cluster that was added are ejected: SnapOutlier's fields up to `flags`, in their order."""
        cdef SnapOutlier *o = &self.cluster_at(index).outlier
        o.consecutive_5xx, o.consecutive_gateway, o.consecutive_local, o.interval_ms, o.base_ms, o.most_ms, o.max_percent, o.flags = fields
        self.cluster_at(index).panic_percent = panic_percent

    def cluster_keepalive(self, index: int, *, time_s: int, interval_s: int, probes: int) -> None:
        """TCP keep-alive on the connections of a cluster that was added; 0: the system's value."""
        cdef SnapCluster *k = self.cluster_at(index)
        k.flags |= CL_KEEPALIVE
        k.keepalive_time_s = time_s
        k.keepalive_interval_s = interval_s
        k.keepalive_probes = probes

    def cluster_hash(self, index: int, *, on: int, name: str, path: str, ttl_s: int, size: int) -> None:
        """Consistent hashing of a cluster that was added: `size` is the least number of points of a ring, or Maglev's slots."""
        cdef SnapCluster *k = self.cluster_at(index)
        cdef uint32_t words
        cdef uint32_t *table = hashtab_make(<SnapEndpoint *>(self.v[V_ENDPOINTS].p + k.endpoints.off), k.endpoints.n, self.v[V_BLOB].p,
                                            k.lb, size, &words)
        if table == NULL and k.endpoints.n:
            raise MemoryError()
        k.hash_table.off = <uint32_t>self.v[V_U32S].n
        k.hash_table.n = words
        try:
            if words:
                memcpy(self.grow(V_U32S, words * sizeof(uint32_t)), table, words * sizeof(uint32_t))
        finally:
            free(table)
        k.hash_name = self.text(name)
        k.hash_path = self.text(path)
        k.hash_on = on
        k.hash_ttl_s = ttl_s

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
        a.rewrite_regex = a.cors = a.limit = NONE
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

    def cond(self, *, on: int, op: int, flags: int, hid: int, name: str, value: str, number: int, regex: int = NONE) -> int:
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

    def vhost(self, name: str, routes: tuple) -> int:
        cdef SnapVhost h
        memset(&h, 0, sizeof(h))
        h.name = self.text(name)
        h.routes = self.run(routes, sizeof(SnapRoute))
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
        l.tls = self.u32_list(tls)
        (<SnapListener *>self.grow(V_LISTENERS, sizeof(SnapListener)))[0] = l
        return self.count(V_LISTENERS, sizeof(SnapListener)) - 1

    cdef SnapArr section(self, int which, const uint32_t *base, size_t size):
        cdef SnapArr a
        a.n = <uint32_t>(self.v[which].n / size)
        a.off = base[which] if a.n else 0
        return a

    cdef void relocate(self, const uint32_t *base) noexcept:
        cdef uint32_t blob = base[V_BLOB]
        cdef uint32_t i
        cdef SnapListener *l = <SnapListener *>self.v[V_LISTENERS].p
        cdef SnapTable *t = <SnapTable *>self.v[V_TABLES].p
        cdef SnapHost *o = <SnapHost *>self.v[V_HOSTS].p
        cdef SnapVhost *h = <SnapVhost *>self.v[V_VHOSTS].p
        cdef SnapRoute *r = <SnapRoute *>self.v[V_ROUTES].p
        cdef SnapCond *c = <SnapCond *>self.v[V_CONDS].p
        cdef SnapAction *a = <SnapAction *>self.v[V_ACTIONS].p
        cdef SnapDest *d = <SnapDest *>self.v[V_DESTS].p
        cdef SnapHdrOp *x = <SnapHdrOp *>self.v[V_HDROPS].p
        cdef SnapCluster *k = <SnapCluster *>self.v[V_CLUSTERS].p
        cdef SnapEndpoint *e = <SnapEndpoint *>self.v[V_ENDPOINTS].p
        cdef SnapTls *s = <SnapTls *>self.v[V_TLS].p
        cdef SnapStr *z = <SnapStr *>self.v[V_STRS].p
        for i in range(self.count(V_LISTENERS, sizeof(SnapListener))):
            move(&l[i].name, blob)
            move_arr(&l[i].tls, base[V_U32S])
        for i in range(self.count(V_TABLES, sizeof(SnapTable))):
            move(&t[i].name, blob)
            t[i].hosts_off += base[V_HOSTS]
        for i in range(self.count(V_HOSTS, sizeof(SnapHost))):
            move(&o[i].host, blob)
        for i in range(self.count(V_VHOSTS, sizeof(SnapVhost))):
            move(&h[i].name, blob)
            move_arr(&h[i].routes, base[V_ROUTES])
        for i in range(self.count(V_ROUTES, sizeof(SnapRoute))):
            move(&r[i].path, blob)
            move(&r[i].name, blob)
            move_arr(&r[i].conds, base[V_CONDS])
        for i in range(self.count(V_CONDS, sizeof(SnapCond))):
            move(&c[i].name, blob)
            move(&c[i].value, blob)
        for i in range(self.count(V_ACTIONS, sizeof(SnapAction))):
            move_arr(&a[i].dests, base[V_DESTS])
            move_arr(&a[i].request_ops, base[V_HDROPS])
            move_arr(&a[i].response_ops, base[V_HDROPS])
            move(&a[i].rewrite_path, blob)
            move(&a[i].rewrite_host, blob)
            move(&a[i].redirect_scheme, blob)
            move(&a[i].redirect_host, blob)
            move(&a[i].redirect_path, blob)
            move(&a[i].body, blob)
            move_arr(&a[i].retry_statuses, base[V_U32S])
        for i in range(self.count(V_DESTS, sizeof(SnapDest))):
            move_arr(&d[i].request_ops, base[V_HDROPS])
            move_arr(&d[i].response_ops, base[V_HDROPS])
        for i in range(self.count(V_HDROPS, sizeof(SnapHdrOp))):
            move(&x[i].name, blob)
            move(&x[i].value, blob)
        for i in range(self.count(V_CLUSTERS, sizeof(SnapCluster))):
            move(&k[i].name, blob)
            move(&k[i].service, blob)
            move(&k[i].sni, blob)
            move_arr(&k[i].endpoints, base[V_ENDPOINTS])
            move_arr(&k[i].sans, base[V_STRS])
            move(&k[i].hash_name, blob)
            move(&k[i].hash_path, blob)
            move_arr(&k[i].hash_table, base[V_U32S])
        for i in range(self.count(V_ENDPOINTS, sizeof(SnapEndpoint))):
            move(&e[i].text, blob)
            move(&e[i].workload, blob)
        for i in range(self.count(V_TLS, sizeof(SnapTls))):
            move(&s[i].name, blob)
            move(&s[i].cert, blob)
            move(&s[i].private_key, blob)
            move(&s[i].ca, blob)
            move(&s[i].alpn, blob)
            move(&s[i].trust_domain, blob)
            move_arr(&s[i].hosts, base[V_STRS])
        for i in range(self.count(V_STRS, sizeof(SnapStr))):
            move(&z[i], blob)
        z = <SnapStr *>self.v[V_REGEXES].p
        for i in range(self.count(V_REGEXES, sizeof(SnapStr))):
            move(&z[i], blob)

    def finish(self, node_id: str, service_cluster: str) -> bytes:
        """The bytes of the generation, for Segment.publish (which stamps its number). The Packer is used up."""
        cdef SnapHeader h
        cdef uint32_t base[V_N]
        cdef uint64_t at = sizeof(SnapHeader)
        cdef char *out
        cdef int i
        memset(&h, 0, sizeof(h))
        h.node_id = self.text(node_id)
        h.service_cluster = self.text(service_cluster)
        for i in range(V_N):
            base[i] = <uint32_t>at
            at = (at + self.v[i].n + 7) & ~<uint64_t>7
            if at + TAIL > SNAP_SLOT_BYTES:
                raise ValueError(f"config: more than {SNAP_SLOT_BYTES} bytes when packed")
        at += TAIL
        self.done = True
        self.relocate(base)
        move(&h.node_id, base[V_BLOB])
        move(&h.service_cluster, base[V_BLOB])
        h.magic = SNAP_MAGIC
        h.version = SNAP_VERSION
        h.bytes = at
        h.listeners = self.section(V_LISTENERS, base, sizeof(SnapListener))
        h.tables = self.section(V_TABLES, base, sizeof(SnapTable))
        h.vhosts = self.section(V_VHOSTS, base, sizeof(SnapVhost))
        h.routes = self.section(V_ROUTES, base, sizeof(SnapRoute))
        h.conds = self.section(V_CONDS, base, sizeof(SnapCond))
        h.actions = self.section(V_ACTIONS, base, sizeof(SnapAction))
        h.dests = self.section(V_DESTS, base, sizeof(SnapDest))
        h.hdrops = self.section(V_HDROPS, base, sizeof(SnapHdrOp))
        h.clusters = self.section(V_CLUSTERS, base, sizeof(SnapCluster))
        h.endpoints = self.section(V_ENDPOINTS, base, sizeof(SnapEndpoint))
        h.tls = self.section(V_TLS, base, sizeof(SnapTls))
        h.strs = self.section(V_STRS, base, sizeof(SnapStr))
        h.u32s = self.section(V_U32S, base, sizeof(uint32_t))
        h.regexes = self.section(V_REGEXES, base, sizeof(SnapStr))
        made = bytearray(at)
        out = made
        for i in range(V_N):
            if self.v[i].n:
                memcpy(out + base[i], self.v[i].p, self.v[i].n)
        h.checksum = fnv64(out + sizeof(SnapHeader), at - sizeof(SnapHeader))
        memcpy(out, &h, sizeof(h))
        return bytes(made)
