"""The check of clusters (L1). See check_clusters.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.check cimport Check, fault, name_ok, str_ok, token_ok, within
from fastmesh._core.shm.layout cimport CL_CELLS, EP_CELLS
from fastmesh._core.shm.snapshot cimport (
    CL_AS_CLIENT, CL_EQUAL, CL_H2, CL_KEEPALIVE, CL_VERIFY_SAN, EP_TLS, HASH_COOKIE, HASH_NONE, HASH_QUERY, HK_HTTP, HK_NONE, HK_TCP,
    LB_MAGLEV, LB_PEAK_EWMA, LB_RING_HASH, MILLION, OF_ON, OF_SPLIT, SNAP_MAX_HOST, SNAP_MAX_NAME, SNAP_MAX_TOTAL, SNAP_MAX_WEIGHT, SNAP_NONE,
    SnapCluster, SnapEndpoint, SnapHealth, SnapStr, fnv64)

cdef enum:
    PORT_DIGITS = 6              # behind a host: ":65535"


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


cdef int check_health(Check *c, const SnapHealth *h, uint32_t index) noexcept nogil:
    cdef const uint32_t *expected = <const uint32_t *>(c.base + h.expected.off)
    cdef uint32_t i
    if h.kind == HK_NONE:
        return FM_OK
    if h.kind > HK_TCP or h.flags:
        return fault(c, b"clusters", index, b"no such health check")
    if h.interval_ms == 0 or h.timeout_ms == 0 or h.unhealthy == 0 or h.healthy == 0 or h.jitter_percent > 100:
        return fault(c, b"clusters", index, b"health check: no time, no threshold, or more than 100 percent")
    if not token_ok(c, h.path) or not token_ok(c, h.host) or h.host.n > SNAP_MAX_HOST + PORT_DIGITS or not str_ok(c, h.service) or (
            h.service.n > SNAP_MAX_NAME):
        return fault(c, b"clusters", index, b"health check: not a valid path, host or service")
    if h.kind == HK_HTTP and (h.path.n == 0 or c.base[h.path.off] != c'/'):
        return fault(c, b"clusters", index, b"health check: a path begins with a slash")
    if not within(c.h.u32s, sizeof(uint32_t), h.expected) or h.expected.n % 2:
        return fault(c, b"clusters", index, b"health check: statuses out of bounds")
    for i in range(0, h.expected.n, 2):
        if expected[i] < 100 or expected[i + 1] > 599 or expected[i] > expected[i + 1]:
            return fault(c, b"clusters", index, b"health check: statuses out of range")
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
