"""Which routes of a virtual host a path can be for (L2): those of the path itself, of each of its prefixes, and those that no hash leads to.

Cost: one pass over the path and a probe for each length that a prefix of this virtual host has (at most SNAP_MAX_LENGTHS), however many
routes there are. The index only leaves out what cannot match: whoever walks it still looks at the route.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.shm.snapshot cimport Snap, SnapVhost

cdef struct PathWalk:
    const uint32_t *list[32]     # SNAP_MAX_LENGTHS, the path itself, the others
    uint32_t left[32]
    uint32_t n

cdef void paths_begin(PathWalk *w, const Snap *s, const SnapVhost *v, Slice path) noexcept nogil
"""For a virtual host with an index (v.paths.n != 0)."""
cdef uint32_t paths_next(PathWalk *w) noexcept nogil
"""The next route in order, as its index within the virtual host; SNAP_NONE: no more."""
