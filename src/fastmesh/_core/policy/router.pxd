"""Which route a request takes (L2): host, then the first route of its virtual host whose path and conditions match. Reads snapshot and Msg only."""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.shm.snapshot cimport Snap, SnapAction, SnapDest, SnapRoute, SnapVhost

cdef struct RouteMatch:
    # borrowed from the snapshot: valid within this reactor turn
    const SnapVhost *vhost
    const SnapRoute *route
    const SnapAction *action
    const SnapDest *dest         # ACT_FORWARD: the weighted choice
    uint32_t prefix_n            # bytes of the path that a prefix match covered

cdef int router_match(const Snap *s, uint32_t table, const Msg *m, bint tls, uint32_t port, uint32_t rnd, RouteMatch *out) noexcept nogil
"""FM_OK and out, or FM_ENOROUTE. `rnd`: 32 random bits for the weighted choice. Host: exact with port, exact without port, longest
"*.suffix" (each with port, then without), "*". Hosts compare ASCII case-insensitively; a trailing dot is ignored."""

cdef bint router_value(uint8_t op, bint ignore_case, uint32_t regex, Slice want, Slice have) noexcept nogil
"""Whether a value is what an operator (OP_*) wants; regex: index into the patterns of the generation in use."""

cdef int64_t router_rewrite(uint32_t regex, Slice path, Slice rewrite, char *to, uint32_t cap) noexcept nogil
"""The path with every match of a pattern of the generation in use replaced (base/regex: regex_replace); its length in to[0:cap], or -1."""

cdef int router_load(const Snap *s) noexcept nogil
"""router_prepare and router_commit in one."""

cdef int router_prepare(const Snap *s) noexcept nogil
"""Compile the regexes of a generation that this process is about to take up (RE2; bounded memory per pattern); FM_OK or FM_ESNAP. Those
in use stay. Called once a generation by a worker, outside of requests."""

cdef void router_commit() noexcept nogil
"""Use what the last successful router_prepare compiled, and free the regexes of the generation before. Cannot fail."""

cdef void router_forget() noexcept nogil
"""Free all patterns: of a process that asks now and then and is no worker (proxy/explain)."""

cdef enum:  # router_obstacle
    ROUTE_TAKES = -1             # none: this route takes the request
    ROUTE_PATH = -2              # its path

cdef int router_obstacle(const Snap *s, const SnapRoute *r, const Msg *m, bint tls, uint32_t port) noexcept nogil
"""What keeps a request from a route: ROUTE_TAKES, ROUTE_PATH, or the index of the first of its conditions that does not hold."""

cdef uint32_t router_name(const Snap *s, uint32_t table, Slice host) noexcept nogil
"""The virtual host of a name (index), or SNAP_NONE."""

cdef const SnapDest *router_dest(const Snap *s, const SnapAction *a, uint32_t rnd) noexcept nogil
"""The weighted choice of an action that forwards; rnd: 32 random bits."""

cdef const SnapVhost *router_vhost(const Snap *s, uint32_t table, const Msg *m) noexcept nogil
"""The virtual host that router_match looks into, or NULL."""
