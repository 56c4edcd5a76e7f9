"""Consistent hashing (L2): whose a request is by the hash of its key, and who comes next when that one is not to be used."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster

cdef enum:
    HASH_WALK_MOST = 256         # steps from a key's endpoint to one that is usable; with more out of use than that, any does

cdef struct HashWalk:
    const uint32_t *places
    uint32_t n
    uint32_t at
    uint32_t step                # < n, or 1
    uint32_t left                # steps that may follow

cdef void hash_begin(HashWalk *w, const Snap *s, const SnapCluster *c, uint64_t key) noexcept nogil
"""Stand at the key's endpoint. O(log n) with LB_RING_HASH, O(1) with LB_MAGLEV. A hash of any quality will do as key."""
cdef bint hash_next(HashWalk *w, uint32_t *place) noexcept nogil
"""The place within the cluster's endpoints, and one step on (an endpoint may come more than once); False: no more steps."""
