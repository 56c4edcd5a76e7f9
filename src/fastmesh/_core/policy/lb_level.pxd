"""Levels of a cluster's endpoints (L2): what share of the requests each gets. Levels come from localities (compile/locality.py): the nearest
endpoints are the first level, or each level is a place that gets a share of its own.

As in Envoy a level can do without a part of its endpoints: one with H percent of them usable can take 1.4 x H percent of all requests, and
only what is beyond that goes to the next level. What is counted is kept by each worker for a while: a pick never walks all endpoints.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport SNAP_MAX_LEVELS, SnapLevel

cdef enum:
    LEVEL_OVER_PERCENT = 140     # Envoy's overprovisioning factor
    LEVEL_FRESH_NS = 10000000    # shares are counted anew after so long ...
    LEVEL_FRESH_EACH_NS = 10000  # ... and so long for each endpoint: counting takes a hundredth of a worker at the most, however many there are

cdef struct LevelShares:         # 64 bytes; of a cluster, each worker its own
    uint64_t until_ns            # CLOCK_MONOTONIC: counted anew after that
    uint32_t generation          # of the config that they are counted of, its low bits
    uint32_t out                 # ClCell.ejected and unhealthy, added up, when they were counted
    uint32_t available           # percent of all requests that the levels together can take, at most 100
    uint32_t reserved
    uint16_t upto[16]            # SNAP_MAX_LEVELS: cumulative shares
    uint64_t reserved1

cdef uint32_t level_shares(const SnapLevel *l, uint32_t n, const uint32_t *usable, uint16_t *upto) noexcept nogil
"""upto[0:n] of levels with so many usable endpoints each; all 0: none has any. LevelShares.available."""
cdef uint32_t level_at(const uint16_t *upto, uint32_t n, uint32_t place) noexcept nogil
"""The level whose share this place is; below upto[n - 1]."""
