"""Which route a TCP session takes (L2). See router_tcp.pxd."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp
from fastmesh._core.base.err cimport FM_ENOROUTE, FM_OK
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.router cimport RouteMatch, router_dest, router_name
from fastmesh._core.shm.snapshot cimport (
    ACT_FORWARD, ON_DESTINATION, ON_PORT, SNAP_NET, SNAP_NONE, Snap, SnapAction, SnapCond, SnapRoute, SnapVhost)


cdef bint within(const uint8_t *net, uint8_t family, const uint8_t *addr) noexcept nogil:
    cdef uint32_t whole = net[1] >> 3
    cdef uint32_t bits = net[1] & 7
    if net[0] != family or memcmp(net + 2, addr, whole) != 0:
        return False
    return bits == 0 or (net[2 + whole] ^ addr[whole]) >> (8 - bits) == 0


cdef bint takes(const Snap *s, const SnapRoute *r, uint8_t family, const uint8_t *addr, uint32_t port) noexcept nogil:
    cdef const SnapCond *c = <const SnapCond *>(s.base + r.conds.off)
    cdef const uint8_t *net
    cdef uint32_t i, k
    cdef bint found
    for i in range(r.conds.n):
        if c[i].on == ON_PORT:
            if c[i].number != port:
                return False
            continue
        if c[i].on != ON_DESTINATION:
            return False         # of HTTP: nothing that a session has
        net = <const uint8_t *>(s.base + c[i].value.off)
        found = False
        for k in range(c[i].value.n // SNAP_NET):
            if within(net + k * SNAP_NET, family, addr):
                found = True
                break
        if not found:
            return False
    return True


cdef int router_tcp(const Snap *s, uint32_t table, Slice name, uint8_t family, const uint8_t *addr, uint32_t port, uint32_t rnd,
                    RouteMatch *out) noexcept nogil:
    cdef uint32_t vhost = router_name(s, table, name)
    cdef const SnapRoute *r
    cdef uint32_t i
    if vhost == SNAP_NONE:
        return FM_ENOROUTE
    out.vhost = <const SnapVhost *>(s.base + s.h.vhosts.off) + vhost
    r = <const SnapRoute *>(s.base + out.vhost.routes.off)
    for i in range(out.vhost.routes.n):
        if takes(s, r + i, family, addr, port):
            out.route = r + i
            out.action = <const SnapAction *>(s.base + s.h.actions.off) + r[i].action
            out.prefix_n = 0
            if out.action.kind != ACT_FORWARD:
                return FM_ENOROUTE
            out.dest = router_dest(s, out.action, rnd)
            return FM_OK
    return FM_ENOROUTE
