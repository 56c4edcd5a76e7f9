"""Warm-up (L2): the share of its weight that a new endpoint counts with, which grows as Envoy's slow start has it."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.cells cimport EpCell
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef enum:
    WARM_WHOLE = 65536           # the share of an endpoint that is warm
    WARM_TRIES = 16              # endpoints that may be passed over because they warm up: where all do, one of them takes it

cdef uint32_t warm_share(const EpCell *e, const SnapCluster *c, uint64_t now_ns) noexcept nogil
"""1..WARM_WHOLE: the most of the least percentage and (time since it came / duration) ^ (1 / aggression)."""
