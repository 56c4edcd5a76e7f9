"""What a route and its cluster say of a request, copied (L3): a pointer into a snapshot does not survive a turn."""
from fastmesh._core.proxy.ctx cimport Plan
from fastmesh._core.shm.snapshot cimport Snap, SnapAction, SnapCluster

cdef void plan_take(Plan *p, const Snap *s, const SnapAction *a, const SnapCluster *c) noexcept nogil
