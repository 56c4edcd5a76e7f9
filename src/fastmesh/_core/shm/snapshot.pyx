"""Reading a config generation (L1): the check that runs once before it is published, and look-ups by stable id.

The check is total: whatever the bytes, it ends and reads only base[0:n]. What passes it needs no bounds check later: every
offset lies in a section whose elements were checked, every count fits, every index has its element. It also refuses what would
let config write into the wire format (line ends in header values). It knows nothing of where the bytes came from.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_ESNAP, FM_OK
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS, SNAP_SLOT_BYTES
from fastmesh._core.shm.snapshot cimport (
    ACT_DIRECT, ACT_FORWARD, ACT_REDIRECT, CF_IGNORE_CASE, CF_NOT, CL_AS_CLIENT, CL_EQUAL, CL_H2, CL_KEEPALIVE, CL_VERIFY_SAN, EP_TLS, HOP_REMOVE, L_INBOUND,
    AF_RETRY_ANYWHERE, AF_RETRY_SAME, HASH_COOKIE, HASH_NONE, HASH_QUERY, LB_MAGLEV, LB_PEAK_EWMA, LB_RING_HASH, LF_HTTPS_REDIRECT, MILLION, OF_ON, OF_SPLIT, ON_PORT, OP_ANY, OP_PATH_PREFIX, OP_PRESENT, OP_REGEX, RO_LAST, RW_FULL, SNAP_MAGIC, SNAP_MAX_HOST,
    SNAP_MAX_LABELS, SNAP_MAX_NAME, SNAP_MAX_PATTERN, SNAP_MAX_REGEXES, SNAP_MAX_TOTAL, SNAP_MAX_VALUE, SNAP_MAX_WEIGHT, SNAP_NONE, SNAP_VERSION, TF_SERVER,
    TF_TICKETS, TF_VERIFY, TLS_DISABLE, TLS_PERMISSIVE, Snap, SnapAction, SnapArr, SnapCluster, SnapCond, SnapDest, SnapEndpoint,
    SnapFault, SnapHdrOp, SnapHeader, SnapHost, SnapListener, SnapRoute, SnapStr, SnapTable, SnapTls, SnapVhost, host_hash)

cdef struct Check:
    const char *base
    uint64_t n
    const SnapHeader *h
    SnapFault *why


cdef uint64_t fnv64(const char *p, size_t n) noexcept nogil:
    cdef uint64_t h = <uint64_t>0xcbf29ce484222325
    cdef size_t i
    for i in range(n):
        h = (h ^ <uint8_t>p[i]) * <uint64_t>0x100000001b3
    return h


cdef int fault(Check *c, const char *section, uint32_t index, const char *what) noexcept nogil:
    c.why.section = section
    c.why.index = index
    c.why.what = what
    return FM_ESNAP


cdef inline bint str_ok(const Check *c, SnapStr s) noexcept nogil:
    return <uint64_t>s.off + s.n <= c.n


cdef inline bint section_ok(const Check *c, SnapArr a, uint64_t size, uint32_t align) noexcept nogil:
    if a.n == 0:
        return True
    return a.off >= sizeof(SnapHeader) and a.off % align == 0 and a.off + a.n * size <= c.n


cdef inline bint within(SnapArr section, uint32_t size, SnapArr a) noexcept nogil:
    """Whether a is a run of whole elements of a section."""
    if a.n == 0:
        return True
    if a.off < section.off or (a.off - section.off) % size != 0:
        return False
    return <uint64_t>((a.off - section.off) / size) + a.n <= section.n


cdef bint field_value_ok(const Check *c, SnapStr s) noexcept nogil:
    """In range, not too long, and nothing in it ends a header line."""
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n > SNAP_MAX_VALUE or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if (b < 32 and b != 9) or b == 127:
            return False
    return True


cdef bint token_ok(const Check *c, SnapStr s) noexcept nogil:
    """In range, not too long, and without what would end a request target or a line."""
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n > SNAP_MAX_VALUE or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if b <= 32 or b == 127:
            return False
    return True


cdef bint name_ok(const Check *c, SnapStr s) noexcept nogil:
    """A field name: a token of RFC 9110 5.6.2, and not empty."""
    cdef const char *p = c.base + s.off
    cdef uint32_t i
    cdef uint8_t b
    if s.n == 0 or s.n > SNAP_MAX_NAME or not str_ok(c, s):
        return False
    for i in range(s.n):
        b = <uint8_t>p[i]
        if not (97 <= b <= 122 or 65 <= b <= 90 or 48 <= b <= 57 or b == 33 or 35 <= b <= 39 or b == 42 or b == 43 or b == 45 or b == 46
                or b == 94 or b == 95 or b == 96 or b == 124 or b == 126):
            return False
    return True


cdef bint alpn_ok(const Check *c, SnapStr s) noexcept nogil:
    cdef const char *p = c.base + s.off
    cdef uint32_t i = 0
    cdef uint32_t n
    if not str_ok(c, s):
        return False
    while i < s.n:
        n = <uint8_t>p[i]
        if n == 0 or n >= s.n - i:
            return False
        i += 1 + n
    return True


cdef inline bint regex_ok(const Check *c, uint8_t op, uint32_t regex) noexcept nogil:
    return regex < c.h.regexes.n if op == OP_REGEX else regex == SNAP_NONE


cdef int check_sections(Check *c) noexcept nogil:
    cdef const SnapHeader *h = c.h
    if not section_ok(c, h.listeners, sizeof(SnapListener), 8):
        return fault(c, b"listeners", 0, b"section out of bounds")
    if not section_ok(c, h.tables, sizeof(SnapTable), 8):
        return fault(c, b"tables", 0, b"section out of bounds")
    if not section_ok(c, h.vhosts, sizeof(SnapVhost), 8):
        return fault(c, b"vhosts", 0, b"section out of bounds")
    if not section_ok(c, h.routes, sizeof(SnapRoute), 8):
        return fault(c, b"routes", 0, b"section out of bounds")
    if not section_ok(c, h.conds, sizeof(SnapCond), 8):
        return fault(c, b"conds", 0, b"section out of bounds")
    if not section_ok(c, h.actions, sizeof(SnapAction), 8):
        return fault(c, b"actions", 0, b"section out of bounds")
    if not section_ok(c, h.dests, sizeof(SnapDest), 8):
        return fault(c, b"dests", 0, b"section out of bounds")
    if not section_ok(c, h.hdrops, sizeof(SnapHdrOp), 8):
        return fault(c, b"hdrops", 0, b"section out of bounds")
    if not section_ok(c, h.clusters, sizeof(SnapCluster), 8):
        return fault(c, b"clusters", 0, b"section out of bounds")
    if not section_ok(c, h.endpoints, sizeof(SnapEndpoint), 8):
        return fault(c, b"endpoints", 0, b"section out of bounds")
    if not section_ok(c, h.tls, sizeof(SnapTls), 8):
        return fault(c, b"tls", 0, b"section out of bounds")
    if not section_ok(c, h.strs, sizeof(SnapStr), 4):
        return fault(c, b"strs", 0, b"section out of bounds")
    if not section_ok(c, h.u32s, sizeof(uint32_t), 4):
        return fault(c, b"u32s", 0, b"section out of bounds")
    if h.regexes.n > SNAP_MAX_REGEXES:
        return fault(c, b"regexes", 0, b"too many patterns")
    if not section_ok(c, h.regexes, sizeof(SnapStr), 4):
        return fault(c, b"regexes", 0, b"section out of bounds")
    if not str_ok(c, h.node_id) or not str_ok(c, h.service_cluster):
        return fault(c, b"header", 0, b"string out of bounds")
    return FM_OK


cdef int check_strings(Check *c) noexcept nogil:
    cdef const SnapStr *s = <const SnapStr *>(c.base + c.h.strs.off)
    cdef uint32_t i
    for i in range(c.h.strs.n):
        if not str_ok(c, s[i]):
            return fault(c, b"strs", i, b"string out of bounds")
    s = <const SnapStr *>(c.base + c.h.regexes.off)
    for i in range(c.h.regexes.n):
        if not str_ok(c, s[i]) or s[i].n > SNAP_MAX_PATTERN:
            return fault(c, b"regexes", i, b"pattern out of bounds")
    return FM_OK


cdef int check_listeners(Check *c) noexcept nogil:
    cdef const SnapListener *l = <const SnapListener *>(c.base + c.h.listeners.off)
    cdef const uint32_t *tls
    cdef uint32_t i, k
    for i in range(c.h.listeners.n):
        if not str_ok(c, l[i].name):
            return fault(c, b"listeners", i, b"name out of bounds")
        if l[i].id != fnv64(c.base + l[i].name.off, l[i].name.n):
            return fault(c, b"listeners", i, b"id is not that of the name")
        if l[i].kind > L_INBOUND or l[i].tls_mode > TLS_PERMISSIVE or l[i].flags > LF_HTTPS_REDIRECT:
            return fault(c, b"listeners", i, b"kind, TLS mode or flag unknown")
        if l[i].table >= c.h.tables.n:
            return fault(c, b"listeners", i, b"no such route table")
        if not within(c.h.u32s, sizeof(uint32_t), l[i].tls):
            return fault(c, b"listeners", i, b"TLS list out of bounds")
        if l[i].tls_mode != TLS_DISABLE and l[i].tls.n == 0:
            return fault(c, b"listeners", i, b"TLS without a certificate")
        tls = <const uint32_t *>(c.base + l[i].tls.off)
        for k in range(l[i].tls.n):
            if tls[k] >= c.h.tls.n:
                return fault(c, b"listeners", i, b"no such TLS context")
    return FM_OK


cdef int check_table(Check *c, const SnapTable *t, uint32_t index) noexcept nogil:
    cdef const SnapHost *hosts = <const SnapHost *>(c.base + t.hosts_off)
    cdef uint64_t hosts_off = t.hosts_off
    cdef uint32_t i
    cdef uint32_t empty = 0
    if not str_ok(c, t.name):
        return fault(c, b"tables", index, b"name out of bounds")
    if t.any_vhost != SNAP_NONE and t.any_vhost >= c.h.vhosts.n:
        return fault(c, b"tables", index, b"no such virtual host")
    if t.max_labels > SNAP_MAX_LABELS:
        return fault(c, b"tables", index, b"too many labels")
    if t.buckets == 0 or t.buckets & (t.buckets - 1) != 0:
        return fault(c, b"tables", index, b"buckets are no power of two")
    if hosts_off % 8 != 0 or hosts_off < sizeof(SnapHeader) or hosts_off + t.buckets * <uint64_t>sizeof(SnapHost) > c.n:
        return fault(c, b"tables", index, b"buckets out of bounds")
    for i in range(t.buckets):
        if hosts[i].hash == 0:
            empty += 1
            continue
        if hosts[i].host.n == 0 or hosts[i].host.n > SNAP_MAX_HOST + 7 or not str_ok(c, hosts[i].host):
            return fault(c, b"tables", index, b"host out of bounds")
        if hosts[i].hash != host_hash(c.base + hosts[i].host.off, hosts[i].host.n):
            return fault(c, b"tables", index, b"hash is not that of the host")
        if hosts[i].vhost >= c.h.vhosts.n or hosts[i].wildcard > 1:
            return fault(c, b"tables", index, b"no such virtual host")
    if empty == 0:
        return fault(c, b"tables", index, b"no empty bucket")   # a look-up would not end
    return FM_OK


cdef int check_routes(Check *c) noexcept nogil:
    cdef const SnapTable *t = <const SnapTable *>(c.base + c.h.tables.off)
    cdef const SnapVhost *v = <const SnapVhost *>(c.base + c.h.vhosts.off)
    cdef const SnapRoute *r = <const SnapRoute *>(c.base + c.h.routes.off)
    cdef const SnapCond *d = <const SnapCond *>(c.base + c.h.conds.off)
    cdef uint32_t i
    cdef int rc
    for i in range(c.h.tables.n):
        rc = check_table(c, &t[i], i)
        if rc != FM_OK:
            return rc
    for i in range(c.h.vhosts.n):
        if not str_ok(c, v[i].name) or not within(c.h.routes, sizeof(SnapRoute), v[i].routes):
            return fault(c, b"vhosts", i, b"routes out of bounds")
    for i in range(c.h.routes.n):
        if r[i].path_op > OP_PATH_PREFIX or r[i].path_op == OP_PRESENT or r[i].flags & ~<uint32_t>CF_IGNORE_CASE:
            return fault(c, b"routes", i, b"path operator unknown")
        if not regex_ok(c, r[i].path_op, r[i].regex):
            return fault(c, b"routes", i, b"no such pattern")
        if not str_ok(c, r[i].path) or not str_ok(c, r[i].name) or not within(c.h.conds, sizeof(SnapCond), r[i].conds):
            return fault(c, b"routes", i, b"conditions or strings out of bounds")
        if r[i].action >= c.h.actions.n:
            return fault(c, b"routes", i, b"no such action")
    for i in range(c.h.conds.n):
        if d[i].on > ON_PORT or d[i].op == OP_ANY or d[i].op > OP_PRESENT or d[i].flags & ~<uint32_t>(CF_NOT | CF_IGNORE_CASE):
            return fault(c, b"conds", i, b"condition unknown")
        if not regex_ok(c, d[i].op, d[i].regex):
            return fault(c, b"conds", i, b"no such pattern")
        if not str_ok(c, d[i].name) or not str_ok(c, d[i].value):
            return fault(c, b"conds", i, b"string out of bounds")
    return FM_OK


cdef int check_forward(Check *c, const SnapAction *a, uint32_t index) noexcept nogil:
    cdef const SnapDest *d = <const SnapDest *>(c.base + a.dests.off)
    cdef uint32_t i
    cdef uint32_t sum = 0
    if a.dests.n == 0 or a.total_weight == 0 or a.total_weight > SNAP_MAX_TOTAL:
        return fault(c, b"actions", index, b"no destination with a weight")
    for i in range(a.dests.n):
        if d[i].weight < sum:
            return fault(c, b"actions", index, b"weights are not cumulative")
        sum = d[i].weight
    if sum != a.total_weight:
        return fault(c, b"actions", index, b"weights do not add up")
    return FM_OK


cdef int check_actions(Check *c) noexcept nogil:
    cdef const SnapAction *a = <const SnapAction *>(c.base + c.h.actions.off)
    cdef const SnapDest *d = <const SnapDest *>(c.base + c.h.dests.off)
    cdef const SnapHdrOp *o = <const SnapHdrOp *>(c.base + c.h.hdrops.off)
    cdef uint32_t i
    cdef int rc
    for i in range(c.h.actions.n):
        if a[i].kind > ACT_DIRECT or a[i].rewrite_op > RW_FULL or a[i].retry_on >= 2 * RO_LAST:
            return fault(c, b"actions", i, b"kind, rewrite or retry condition unknown")
        if not within(c.h.dests, sizeof(SnapDest), a[i].dests):
            return fault(c, b"actions", i, b"destinations out of bounds")
        if not within(c.h.hdrops, sizeof(SnapHdrOp), a[i].request_ops) or not within(c.h.hdrops, sizeof(SnapHdrOp), a[i].response_ops):
            return fault(c, b"actions", i, b"header operations out of bounds")
        if not token_ok(c, a[i].rewrite_path) or not token_ok(c, a[i].rewrite_host) or not token_ok(c, a[i].redirect_scheme) \
                or not token_ok(c, a[i].redirect_host) or not token_ok(c, a[i].redirect_path) or not str_ok(c, a[i].body):
            return fault(c, b"actions", i, b"string out of bounds, or with a character that must not be in a request line or header")
        if not within(c.h.u32s, sizeof(uint32_t), a[i].retry_statuses):
            return fault(c, b"actions", i, b"retry statuses out of bounds")
        if a[i].backoff_base_ms > a[i].backoff_most_ms or a[i].flags & ~<uint32_t>(AF_RETRY_ANYWHERE | AF_RETRY_SAME):
            return fault(c, b"actions", i, b"back-off or flag out of range")
        if a[i].delay_ppm > MILLION or a[i].abort_ppm > MILLION or a[i].abort_grpc > 17:
            return fault(c, b"actions", i, b"fault out of range")
        if a[i].abort_ppm and not 200 <= a[i].abort_status <= 599:
            return fault(c, b"actions", i, b"not a final status")
        if a[i].rewrite_regex != SNAP_NONE and a[i].rewrite_regex >= c.h.regexes.n:
            return fault(c, b"actions", i, b"no such pattern")
        if a[i].mirrors.n or a[i].cors != SNAP_NONE or a[i].limit != SNAP_NONE:
            return fault(c, b"actions", i, b"no such mirror, CORS policy or rate limit")
        if a[i].redirect_port > 65535:
            return fault(c, b"actions", i, b"port out of range")
        if a[i].kind == ACT_REDIRECT and not 300 <= a[i].status <= 399:
            return fault(c, b"actions", i, b"not the status of a redirect")
        if a[i].kind == ACT_DIRECT and not 200 <= a[i].status <= 599:
            return fault(c, b"actions", i, b"not a final status")
        if a[i].kind == ACT_FORWARD:
            rc = check_forward(c, &a[i], i)
            if rc != FM_OK:
                return rc
    for i in range(c.h.dests.n):
        if d[i].cluster != SNAP_NONE and d[i].cluster >= c.h.clusters.n:
            return fault(c, b"dests", i, b"no such cluster")
        if not within(c.h.hdrops, sizeof(SnapHdrOp), d[i].request_ops) or not within(c.h.hdrops, sizeof(SnapHdrOp), d[i].response_ops):
            return fault(c, b"dests", i, b"header operations out of bounds")
    for i in range(c.h.hdrops.n):
        if o[i].op > HOP_REMOVE:
            return fault(c, b"hdrops", i, b"operation unknown")
        if not name_ok(c, o[i].name) or not field_value_ok(c, o[i].value):
            return fault(c, b"hdrops", i, b"not a valid field name or value")
    return FM_OK


cdef int check_hash(Check *c, const SnapCluster *k, uint32_t index) noexcept nogil:
    cdef const uint32_t *table = <const uint32_t *>(c.base + k.hash_table.off)
    cdef uint32_t first = 0
    cdef uint32_t i
    if k.lb < LB_RING_HASH:
        return FM_OK if k.hash_table.n == 0 else fault(c, b"clusters", index, b"a hash table of no use")
    if k.endpoints.n and k.hash_table.n == 0:
        return fault(c, b"clusters", index, b"no hash table")
    if k.lb == LB_RING_HASH:
        first = k.hash_table.n / 2
        if k.hash_table.n % 2:
            return fault(c, b"clusters", index, b"a ring whose points and places differ in number")
        for i in range(1, first):
            if table[i] < table[i - 1]:
                return fault(c, b"clusters", index, b"a ring out of order")
    for i in range(first, k.hash_table.n):
        if table[i] >= k.endpoints.n:
            return fault(c, b"clusters", index, b"a hash table with a place that no endpoint has")
    if k.hash_on == HASH_COOKIE or k.hash_path.n:
        if not name_ok(c, k.hash_name) or not token_ok(c, k.hash_path):
            return fault(c, b"clusters", index, b"not a valid cookie")
        for i in range(k.hash_path.n):
            if c.base[k.hash_path.off + i] == c';':
                return fault(c, b"clusters", index, b"not a valid cookie")
    return FM_OK


cdef int check_cluster(Check *c, const SnapCluster *k, uint32_t index) noexcept nogil:
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(c.base + k.endpoints.off)
    cdef uint64_t sum = 0
    cdef uint32_t i
    cdef int rc
    if not str_ok(c, k.name) or not str_ok(c, k.service) or not str_ok(c, k.sni):
        return fault(c, b"clusters", index, b"string out of bounds")
    if k.id != fnv64(c.base + k.name.off, k.name.n):
        return fault(c, b"clusters", index, b"id is not that of the name")
    if k.lb > LB_MAGLEV or k.flags & ~<uint32_t>(CL_EQUAL | CL_VERIFY_SAN | CL_H2 | CL_AS_CLIENT | CL_KEEPALIVE):
        return fault(c, b"clusters", index, b"load balancing or flag unknown")
    if k.tls != SNAP_NONE and k.tls >= c.h.tls.n:
        return fault(c, b"clusters", index, b"no such TLS context")
    if k.cell >= CL_CELLS:
        return fault(c, b"clusters", index, b"no such cell")
    if k.budget_ppm > MILLION or k.panic_percent > 100 or k.outlier.max_percent > 100 or k.outlier.failure_percent > 100:
        return fault(c, b"clusters", index, b"more than 100 percent")
    if k.outlier.flags & ~<uint32_t>(OF_ON | OF_SPLIT) or (k.outlier.flags & OF_ON and (
            k.outlier.interval_ms == 0 or k.outlier.base_ms == 0 or k.outlier.most_ms < k.outlier.base_ms)):
        return fault(c, b"clusters", index, b"outlier detection: flag unknown, or no time")
    if k.outlier.flags == 0 and k.panic_percent:
        return fault(c, b"clusters", index, b"a panic threshold of no use")
    if k.hash_on > HASH_QUERY or (k.lb >= LB_RING_HASH) != (k.hash_on != HASH_NONE):
        return fault(c, b"clusters", index, b"hash unknown, or of no use")
    if k.levels.n or not str_ok(c, k.hash_name) or not str_ok(c, k.hash_path) or not within(c.h.u32s, sizeof(uint32_t), k.hash_table):
        return fault(c, b"clusters", index, b"levels, strings or hash table out of bounds")
    if k.warm_ms and (k.warm_least_percent > 100 or k.warm_aggression_centi < 100):
        return fault(c, b"clusters", index, b"warm-up out of range")
    if (k.lb == LB_PEAK_EWMA) != (k.decay_ms != 0):
        return fault(c, b"clusters", index, b"a decay without use, or none")
    rc = check_hash(c, k, index)
    if rc != FM_OK:
        return rc
    if not within(c.h.strs, sizeof(SnapStr), k.sans):
        return fault(c, b"clusters", index, b"identities out of bounds")
    if not within(c.h.endpoints, sizeof(SnapEndpoint), k.endpoints):
        return fault(c, b"clusters", index, b"endpoints out of bounds")
    for i in range(k.endpoints.n):
        sum += e[i].weight         # each was checked before: no overflow
        if e[i].upto != sum:
            return fault(c, b"clusters", index, b"weights are not cumulative")
        if k.flags & CL_EQUAL and e[i].weight != e[0].weight:
            return fault(c, b"clusters", index, b"weights are not equal")
        if e[i].flags & EP_TLS and k.tls == SNAP_NONE:
            return fault(c, b"clusters", index, b"an endpoint with TLS, but no TLS context")
    if sum != k.total_weight or sum > SNAP_MAX_TOTAL:
        return fault(c, b"clusters", index, b"weights do not add up")
    if sum > 1 and (k.rr_stride == 0 or k.rr_stride >= sum):
        return fault(c, b"clusters", index, b"stride out of range")
    return FM_OK


cdef int check_clusters(Check *c) noexcept nogil:
    cdef const SnapCluster *k = <const SnapCluster *>(c.base + c.h.clusters.off)
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(c.base + c.h.endpoints.off)
    cdef uint32_t i
    cdef int rc
    for i in range(c.h.endpoints.n):
        if (e[i].family != 4 and e[i].family != 6) or e[i].flags > EP_TLS or e[i].cell >= EP_CELLS:
            return fault(c, b"endpoints", i, b"address family, flag or cell unknown")
        if e[i].weight == 0 or e[i].weight > SNAP_MAX_WEIGHT:
            return fault(c, b"endpoints", i, b"weight out of range")
        if not str_ok(c, e[i].text) or not str_ok(c, e[i].workload):
            return fault(c, b"endpoints", i, b"string out of bounds")
    for i in range(c.h.clusters.n):
        if i > 0 and k[i].id <= k[i - 1].id:
            return fault(c, b"clusters", i, b"not sorted by id")
        rc = check_cluster(c, &k[i], i)
        if rc != FM_OK:
            return rc
    return FM_OK


cdef int check_tls(Check *c) noexcept nogil:
    cdef const SnapTls *t = <const SnapTls *>(c.base + c.h.tls.off)
    cdef uint32_t i
    for i in range(c.h.tls.n):
        if t[i].flags & ~<uint32_t>(TF_SERVER | TF_VERIFY | TF_TICKETS) or (t[i].min_version != 0x0303 and t[i].min_version != 0x0304):
            return fault(c, b"tls", i, b"flag or version unknown")
        if not str_ok(c, t[i].name) or not str_ok(c, t[i].cert) or not str_ok(c, t[i].private_key) or not str_ok(c, t[i].ca) \
                or not str_ok(c, t[i].trust_domain):
            return fault(c, b"tls", i, b"string out of bounds")
        if not alpn_ok(c, t[i].alpn):
            return fault(c, b"tls", i, b"ALPN list malformed")
        if not within(c.h.strs, sizeof(SnapStr), t[i].hosts):
            return fault(c, b"tls", i, b"names out of bounds")
    return FM_OK


cdef int snap_fault(const char *base, uint64_t n, SnapFault *why) noexcept nogil:
    cdef Check c
    cdef int rc
    c.base = base
    c.n = n
    c.h = <const SnapHeader *>base
    c.why = why
    why.section = b"header"
    why.index = 0
    why.what = b""
    if n < sizeof(SnapHeader) or n > SNAP_SLOT_BYTES or <size_t>base & 7 != 0:
        return fault(&c, b"header", 0, b"size or alignment")
    if c.h.magic != SNAP_MAGIC or c.h.version != SNAP_VERSION:
        return fault(&c, b"header", 0, b"not a snapshot of this version")
    if c.h.bytes != n:
        return fault(&c, b"header", 0, b"cut off, or followed by more")
    if c.h.checksum != fnv64(base + sizeof(SnapHeader), n - sizeof(SnapHeader)):
        return fault(&c, b"header", 0, b"checksum does not fit")
    rc = check_sections(&c)
    if rc == FM_OK:
        rc = check_strings(&c)
    if rc == FM_OK:
        rc = check_tls(&c)
    if rc == FM_OK:
        rc = check_listeners(&c)
    if rc == FM_OK:
        rc = check_clusters(&c)
    if rc == FM_OK:
        rc = check_actions(&c)
    if rc == FM_OK:
        rc = check_routes(&c)
    return rc


cdef int snap_check(const char *base, uint64_t n) noexcept nogil:
    cdef SnapFault why
    return snap_fault(base, n, &why)


cdef int snap_open(Snap *s, const char *base) noexcept nogil:
    s.base = base
    s.h = <const SnapHeader *>base
    s.generation = s.h.generation
    return FM_OK if s.h.magic == SNAP_MAGIC and s.h.version == SNAP_VERSION else FM_ESNAP


cdef const SnapCluster *snap_cluster(const Snap *s, uint64_t cid) noexcept nogil:
    cdef const SnapCluster *k = <const SnapCluster *>(s.base + s.h.clusters.off)
    cdef uint32_t lo = 0
    cdef uint32_t hi = s.h.clusters.n
    cdef uint32_t mid
    while lo < hi:
        mid = lo + ((hi - lo) >> 1)
        if k[mid].id < cid:
            lo = mid + 1
        else:
            hi = mid
    return &k[lo] if lo < s.h.clusters.n and k[lo].id == cid else NULL


cdef const SnapListener *snap_listener(const Snap *s, uint64_t lid) noexcept nogil:
    cdef const SnapListener *l = <const SnapListener *>(s.base + s.h.listeners.off)
    cdef uint32_t i
    for i in range(s.h.listeners.n):
        if l[i].id == lid:
            return &l[i]
    return NULL
