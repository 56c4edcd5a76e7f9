"""The check of route tables (L1). See check_routes.pxd."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.err cimport FM_OK
from fastmesh._core.shm.check cimport Check, fault, regex_ok, str_ok, within
from fastmesh._core.shm.snapshot cimport (
    CF_IGNORE_CASE, CF_NOT, ON_PORT, OP_ANY, OP_PATH_PREFIX, OP_PRESENT, SNAP_MAX_HOST, SNAP_MAX_LABELS, SNAP_NONE, SnapCond, SnapHeader,
    SnapHost, SnapRoute, SnapTable, SnapVhost, host_hash)


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
