"""Which route a TCP session takes (L2): by the name that its client asked for in TLS, then the first route whose destination networks hold
the address that it called. Reads the snapshot only."""
from libc.stdint cimport uint8_t, uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.shm.snapshot cimport Snap

cdef int router_tcp(const Snap *s, uint32_t table, Slice name, uint8_t family, const uint8_t *addr, uint32_t port, uint32_t rnd,
                    RouteMatch *out) noexcept nogil
"""FM_OK and out, or FM_ENOROUTE. `name`: empty for none, which only the virtual host of "*" takes. family: 4, 6, or 0 for an address that
is not known, which is in no network. `port`: that it called. `rnd`: 32 random bits for the weighted choice."""
