"""The check of clusters (L1). See check_clusters.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.check cimport Check, fault, name_ok, steps_ok, str_ok, token_ok, within
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS
from fastmesh._core.shm.snapshot cimport (
    CL_AS_CLIENT, CL_EQUAL, CL_H2, CL_KEEPALIVE, CL_ORIGINAL_DST, CL_VERIFY_SAN, EP_TLS, HASH_COOKIE, HASH_NONE, HASH_QUERY, HK_HTTP, HK_NONE, HK_TCP,
    LB_MAGLEV, LB_PEAK_EWMA, LB_RING_HASH, MILLION, OF_ON, OF_SPLIT, SNAP_MAX_HOST, SNAP_MAX_LEVELS, SNAP_MAX_NAME, SNAP_MAX_TOTAL,
    SNAP_MAX_WEIGHT, SNAP_NONE, SnapArr, SnapCluster, SnapEndpoint, SnapHealth, SnapLevel, SnapStr, fnv64)

cdef enum:
    PORT_DIGITS = 6              # behind a host: ":65535"


cdef inline bint host_ok(const Check *c, SnapStr s) noexcept nogil:
    """What may become a Host: nothing in it ends the line."""
    return s.n <= SNAP_MAX_HOST + PORT_DIGITS and token_ok(c, s)


cdef int check_table(Check *c, const SnapCluster *k, SnapArr t, uint32_t endpoints, uint32_t index) noexcept nogil:
    cdef const uint32_t *table
    cdef uint32_t first = 0
    cdef uint32_t i
    if not within(c.h.u32s, sizeof(uint32_t), t):
        return fault(c, b"clusters", index, b"hash table out of bounds")
    table = <const uint32_t *>(c.base + t.off)
    if k.lb < LB_RING_HASH:
        return FM_OK if t.n == 0 else fault(c, b"clusters", index, b"a hash table of no use")
    if endpoints and t.n == 0:
        return fault(c, b"clusters", index, b"no hash table")
    if not steps_ok(c, t.n):
        return fault(c, b"clusters", index, b"too much to look at")
    if k.lb == LB_RING_HASH:
        first = t.n / 2
        if t.n % 2:
            return fault(c, b"clusters", index, b"a ring whose points and places differ in number")
        for i in range(1, first):
            if table[i] < table[i - 1]:
                return fault(c, b"clusters", index, b"a ring out of order")
    for i in range(first, t.n):
        if table[i] >= endpoints:
            return fault(c, b"clusters", index, b"a hash table with a place that no endpoint has")
    return FM_OK


cdef int check_hash(Check *c, const SnapCluster *k, uint32_t index) noexcept nogil:
    cdef uint32_t i
    # with levels each has its own
    cdef int rc = check_table(c, k, k.hash_table, 0 if k.levels.n else k.endpoints.n, index)
    if rc != FM_OK or k.lb < LB_RING_HASH:
        return rc
    if k.hash_on == HASH_COOKIE or k.hash_path.n:
        if not name_ok(c, k.hash_name) or not token_ok(c, k.hash_path):
            return fault(c, b"clusters", index, b"not a valid cookie")
        for i in range(k.hash_path.n):
            if c.base[k.hash_path.off + i] == c';':
                return fault(c, b"clusters", index, b"not a valid cookie")
    return FM_OK


cdef int check_health(Check *c, const SnapHealth *h, uint32_t index) noexcept nogil:
    cdef const uint32_t *expected = <const uint32_t *>(c.base + h.expected.off)
    cdef uint32_t i
    if h.kind == HK_NONE:
        return FM_OK
    if h.kind > HK_TCP or h.flags:
        return fault(c, b"clusters", index, b"no such health check")
    if h.interval_ms == 0 or h.timeout_ms == 0 or h.unhealthy == 0 or h.healthy == 0 or h.jitter_percent > 100:
        return fault(c, b"clusters", index, b"health check: no time, no threshold, or more than 100 percent")
    if not token_ok(c, h.path) or not host_ok(c, h.host) or not str_ok(c, h.service) or (
            h.service.n > SNAP_MAX_NAME):
        return fault(c, b"clusters", index, b"health check: not a valid path, host or service")
    if h.kind == HK_HTTP and (h.path.n == 0 or c.base[h.path.off] != c'/'):
        return fault(c, b"clusters", index, b"health check: a path begins with a slash")
    if not within(c.h.u32s, sizeof(uint32_t), h.expected) or h.expected.n % 2 or not steps_ok(c, h.expected.n):
        return fault(c, b"clusters", index, b"health check: statuses out of bounds")
    for i in range(0, h.expected.n, 2):
        if expected[i] < 100 or expected[i + 1] > 599 or expected[i] > expected[i + 1]:
            return fault(c, b"clusters", index, b"health check: statuses out of range")
    return FM_OK


cdef int check_weights(Check *c, const SnapCluster *k, uint32_t index, uint32_t first, uint32_t n, uint32_t total,
                       uint32_t stride) noexcept nogil:
    """Of a cluster or a level: endpoints [first, first + n)."""
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(c.base + k.endpoints.off) + first
    cdef uint64_t sum = 0
    cdef uint32_t i
    for i in range(n):
        sum += e[i].weight         # each was checked before: no overflow
        if e[i].upto != sum:
            return fault(c, b"clusters", index, b"weights are not cumulative")
    if sum != total or sum > SNAP_MAX_TOTAL:
        return fault(c, b"clusters", index, b"weights do not add up")
    if sum > 1 and (stride == 0 or stride >= sum):
        return fault(c, b"clusters", index, b"stride out of range")
    return FM_OK


cdef int check_levels(Check *c, const SnapCluster *k, uint32_t index) noexcept nogil:
    cdef const SnapLevel *l = <const SnapLevel *>(c.base + k.levels.off)
    cdef uint64_t sum = 0
    cdef uint32_t first = 0
    cdef uint32_t shares = 0
    cdef uint32_t i
    cdef int rc
    if k.levels.n > SNAP_MAX_LEVELS or not within(c.h.levels, sizeof(SnapLevel), k.levels):
        return fault(c, b"clusters", index, b"levels out of bounds")
    for i in range(k.levels.n):
        if l[i].first != first or l[i].n == 0 or l[i].n > k.endpoints.n - first:
            return fault(c, b"clusters", index, b"a level out of order")
        shares += l[i].share if l[i].share <= 100 else 101
        if shares > 100 or (l[i].share == 0) != (l[0].share == 0):
            return fault(c, b"clusters", index, b"a level's share out of range")
        rc = check_weights(c, k, index, first, l[i].n, l[i].total_weight, l[i].rr_stride)
        if rc == FM_OK:
            rc = check_table(c, k, l[i].hash_table, l[i].n, index)
        if rc != FM_OK:
            return rc
        first += l[i].n
        sum += l[i].total_weight
    if first != k.endpoints.n or sum != k.total_weight:
        return fault(c, b"clusters", index, b"levels do not add up")
    return FM_OK


cdef int check_cluster(Check *c, const SnapCluster *k, uint32_t index) noexcept nogil:
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(c.base + k.endpoints.off)
    cdef uint32_t i
    cdef int rc
    if not token_ok(c, k.name) or not host_ok(c, k.service) or not str_ok(c, k.sni):
        return fault(c, b"clusters", index, b"string out of bounds, or with a character that must not be in a host")
    if k.id != fnv64(c.base + k.name.off, k.name.n):
        return fault(c, b"clusters", index, b"id is not that of the name")
    if k.lb > LB_MAGLEV or k.flags & ~<uint32_t>(
            CL_EQUAL | CL_VERIFY_SAN | CL_H2 | CL_AS_CLIENT | CL_KEEPALIVE | CL_ORIGINAL_DST):
        return fault(c, b"clusters", index, b"load balancing or flag unknown")
    # its endpoint stands for many hosts: nothing that is learnt of one may be held against another, and no connection is used twice
    if k.flags & CL_ORIGINAL_DST and (k.endpoints.n != 1 or k.lb >= LB_RING_HASH or k.max_requests_per_connection != 1 or k.levels.n or (
            k.outlier.flags or k.health.kind != HK_NONE)):
        return fault(c, b"clusters", index, b"not for whatever address is called")
    if k.tls != SNAP_NONE and k.tls >= c.h.tls.n:
        return fault(c, b"clusters", index, b"no such TLS context")
    if k.cell >= CL_CELLS:
        return fault(c, b"clusters", index, b"no such cell")
    if k.budget_ppm > MILLION or k.panic_percent > 100 or k.outlier.max_percent > 100 or k.outlier.failure_percent > 100:
        return fault(c, b"clusters", index, b"more than 100 percent")
    if k.outlier.flags & ~<uint32_t>(OF_ON | OF_SPLIT) or (k.outlier.flags & OF_ON and (
            k.outlier.interval_ms == 0 or k.outlier.base_ms == 0 or k.outlier.most_ms < k.outlier.base_ms)):
        return fault(c, b"clusters", index, b"outlier detection: flag unknown, or no time")
    if (k.outlier.flags & OF_ON == 0 and (k.outlier.rate_stdev_milli or k.outlier.failure_percent)) or (
            k.outlier.rate_stdev_milli and (k.outlier.rate_hosts == 0 or k.outlier.rate_volume == 0)) or (
            k.outlier.failure_percent and (k.outlier.failure_hosts == 0 or k.outlier.failure_volume == 0)):
        return fault(c, b"clusters", index, b"outlier detection: a rate of no use, or of nothing")
    if k.outlier.flags == 0 and k.panic_percent:
        return fault(c, b"clusters", index, b"a panic threshold of no use")
    if k.hash_on > HASH_QUERY or (k.lb >= LB_RING_HASH) != (k.hash_on != HASH_NONE):
        return fault(c, b"clusters", index, b"hash unknown, or of no use")
    rc = check_health(c, &k.health, index)
    if rc != FM_OK:
        return rc
    if not str_ok(c, k.hash_name) or not str_ok(c, k.hash_path):
        return fault(c, b"clusters", index, b"string of a hash out of bounds")
    if k.warm_ms and (k.warm_least_percent > 100 or k.warm_aggression_centi < 100):
        return fault(c, b"clusters", index, b"warm-up out of range")
    if (k.lb == LB_PEAK_EWMA) != (k.decay_ms != 0):
        return fault(c, b"clusters", index, b"a decay without use, or none")
    if not within(c.h.strs, sizeof(SnapStr), k.sans):
        return fault(c, b"clusters", index, b"identities out of bounds")
    if not within(c.h.endpoints, sizeof(SnapEndpoint), k.endpoints):
        return fault(c, b"clusters", index, b"endpoints out of bounds")
    if not steps_ok(c, k.endpoints.n):
        return fault(c, b"clusters", index, b"too much to look at")
    rc = check_hash(c, k, index)
    if rc != FM_OK:
        return rc
    for i in range(k.endpoints.n):
        if k.flags & CL_EQUAL and e[i].weight != e[0].weight:
            return fault(c, b"clusters", index, b"weights are not equal")
        if e[i].flags & EP_TLS and k.tls == SNAP_NONE:
            return fault(c, b"clusters", index, b"an endpoint with TLS, but no TLS context")
    if k.levels.n:
        return check_levels(c, k, index)
    return check_weights(c, k, index, 0, k.endpoints.n, k.total_weight, k.rr_stride)


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
        if not host_ok(c, e[i].text) or not str_ok(c, e[i].workload):
            return fault(c, b"endpoints", i, b"string out of bounds, or with a character that must not be in a host")
    for i in range(c.h.clusters.n):
        if i > 0 and k[i].id <= k[i - 1].id:
            return fault(c, b"clusters", i, b"not sorted by id")
        rc = check_cluster(c, &k[i], i)
        if rc != FM_OK:
            return rc
    return FM_OK
