"""The check of route tables (L1). See check_routes.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.check cimport Check, apart, fault, regex_ok, steps_ok, str_ok, within
from fastmesh._core.shm.snapshot cimport (
    CF_IGNORE_CASE, CF_NOT, ON_DESTINATION, OP_ANY, OP_EXACT, OP_PATH_PREFIX, OP_PRESENT, SNAP_MAX_HOST, SNAP_MAX_LABELS, SNAP_MAX_LENGTHS, SNAP_NET, SNAP_NONE,
    SnapArr, SnapCond, SnapHeader, SnapHost, SnapPath, SnapRoute, SnapTable, SnapVhost, host_hash, path_hash)


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
    if not apart(c, hosts_off, hosts_off + t.buckets * <uint64_t>sizeof(SnapHost)):
        return fault(c, b"tables", index, b"buckets that are something else, too")
    if not steps_ok(c, t.buckets):
        return fault(c, b"tables", index, b"too much to look at")
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


cdef uint32_t listed(Check *c, const SnapVhost *v, SnapArr a, uint64_t hash) noexcept nogil:
    """How many routes a list has; SNAP_NONE: it is out of bounds or out of order, or one of its routes belongs elsewhere."""
    cdef const uint32_t *list = <const uint32_t *>(c.base + a.off)
    cdef const SnapRoute *r = <const SnapRoute *>(c.base + v.routes.off)
    cdef uint32_t i
    if not within(c.h.u32s, sizeof(uint32_t), a) or not steps_ok(c, a.n):
        return SNAP_NONE
    for i in range(a.n):
        if list[i] >= v.routes.n or (i > 0 and list[i] <= list[i - 1]):
            return SNAP_NONE
        if hash and (not str_ok(c, r[list[i]].path) or not steps_ok(c, r[list[i]].path.n)
                     or hash != path_hash(c.base + r[list[i]].path.off, r[list[i]].path.n, r[list[i]].path_op != OP_EXACT)):
            return SNAP_NONE
    return a.n


cdef int check_paths(Check *c, const SnapVhost *v, uint32_t index) noexcept nogil:
    """Every route is in one list, and a look-up of its path finds that list."""
    cdef const SnapPath *p = <const SnapPath *>(c.base + v.paths.off)
    cdef const uint32_t *lengths = <const uint32_t *>(c.base + v.lengths.off)
    cdef uint64_t sum = 0
    cdef uint32_t empty = 0
    cdef uint32_t i, k, n
    if v.paths.n == 0:
        return FM_OK if v.lengths.n == 0 and v.others.n == 0 else fault(c, b"vhosts", index, b"an index of paths without buckets")
    if v.paths.n & (v.paths.n - 1) != 0 or not within(c.h.paths, sizeof(SnapPath), v.paths):
        return fault(c, b"vhosts", index, b"buckets of paths out of bounds, or no power of two")
    if v.lengths.n > SNAP_MAX_LENGTHS or not within(c.h.u32s, sizeof(uint32_t), v.lengths):
        return fault(c, b"vhosts", index, b"lengths of prefixes out of bounds")
    if not steps_ok(c, 2 * <uint64_t>v.paths.n):
        return fault(c, b"vhosts", index, b"too much to look at")
    for i in range(1, v.lengths.n):
        if lengths[i] <= lengths[i - 1]:
            return fault(c, b"vhosts", index, b"lengths of prefixes out of order")
    for i in range(v.paths.n):
        if p[i].hash == 0:
            empty += 1
    if empty == 0:
        return fault(c, b"vhosts", index, b"no empty bucket of paths")   # a look-up would not end
    for i in range(v.paths.n):
        if p[i].hash == 0:
            continue
        n = listed(c, v, p[i].routes, p[i].hash)
        if n == SNAP_NONE:
            return fault(c, b"vhosts", index, b"a list of routes that is none")
        sum += n
        k = <uint32_t>p[i].hash & (v.paths.n - 1)
        while k != i and p[k].hash != 0 and p[k].hash != p[i].hash and steps_ok(c, 1):
            k = (k + 1) & (v.paths.n - 1)
        if k != i:
            return fault(c, b"vhosts", index, b"a bucket that no look-up finds")
    n = listed(c, v, v.others, 0)
    if n == SNAP_NONE:
        return fault(c, b"vhosts", index, b"a list of routes that is none")
    return FM_OK if sum + n == v.routes.n else fault(c, b"vhosts", index, b"a route that no path leads to")


cdef bint networks_ok(const Check *c, const SnapCond *d) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>(c.base + d.value.off)
    cdef uint32_t i
    if d.value.n == 0 or d.value.n % SNAP_NET or not str_ok(c, d.value):
        return False
    for i in range(d.value.n // SNAP_NET):
        if (p[0] != 4 or p[1] > 32) and (p[0] != 6 or p[1] > 128):
            return False
        p += SNAP_NET
    return True


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
        rc = check_paths(c, &v[i], i)
        if rc != FM_OK:
            return rc
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
        if d[i].on > ON_DESTINATION or d[i].op == OP_ANY or d[i].op > OP_PRESENT or d[i].flags & ~<uint32_t>(CF_NOT | CF_IGNORE_CASE):
            return fault(c, b"conds", i, b"condition unknown")
        if not regex_ok(c, d[i].op, d[i].regex):
            return fault(c, b"conds", i, b"no such pattern")
        if not str_ok(c, d[i].name) or not str_ok(c, d[i].value):
            return fault(c, b"conds", i, b"string out of bounds")
        if d[i].on == ON_DESTINATION and not networks_ok(c, &d[i]):
            return fault(c, b"conds", i, b"not a list of networks")
    return FM_OK
