"""Tables of consistent hashing (L1): which endpoint has which part of the keys. Filled when a snapshot is packed, read by policy/lb_hash.

    LB_RING_HASH    n points on a ring of 2^32, ascending, then the place of the endpoint that has each: a key belongs to the next point
    LB_MAGLEV       the place of an endpoint for each slot; a key's slot is its remainder

A place counts within the cluster's endpoints. A table depends on who the endpoints are and on their weights, not on their order.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.shm.snapshot cimport SnapEndpoint

cdef enum:
    HASH_MAX_TABLE = 1048576     # points or slots that config may ask for: 8 MiB a cluster
    RING_POINTS_MOST = 131072    # of a ring, where config does not ask for more: endpoints then have fewer points each

cdef inline uint64_t mix64(uint64_t x) noexcept nogil:
    """A permutation of 64 bits in which each bit of x changes about half of all (splitmix64's end)."""
    x ^= x >> 30
    x *= <uint64_t>0xbf58476d1ce4e5b9
    x ^= x >> 27
    x *= <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)

cdef struct HashNode:
    uint64_t key                 # a hash of the endpoint's address
    uint32_t weight              # > 0
    uint32_t place

cdef uint32_t *hashtab_make(const SnapEndpoint *e, uint32_t n, const char *blob, int lb, uint32_t size, uint32_t *words) noexcept nogil
"""The table of these endpoints (texts relative to blob) with LB_RING_HASH or LB_MAGLEV; `size`: the least number of points, or slots. The
caller frees it. NULL: no memory, or n is 0."""
cdef uint32_t ring_size(const HashNode *v, uint32_t n, uint32_t least) noexcept nogil
"""Points of the ring of these endpoints; 2 words each. An endpoint of average weight has at least half of `least` points, rounded up to a
power of two, so that two have a ring of the size asked for. That number does not depend on how many endpoints there are (up to
RING_POINTS_MOST points in all): who comes or goes moves its own keys only."""
cdef int ring_fill(const HashNode *v, uint32_t n, uint32_t least, uint32_t *out) noexcept nogil
"""out: 2 * ring_size words. FM_OK or FM_ENOMEM."""
cdef int maglev_fill(HashNode *v, uint32_t n, uint32_t slots, uint32_t *out) noexcept nogil
"""Maglev's table ("Maglev: A Fast and Reliable Software Network Load Balancer", 3.4) with weights: v is sorted by key; `slots` is a prime,
and with more endpoints than slots some have none. FM_OK or FM_ENOMEM."""
