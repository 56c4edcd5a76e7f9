"""Which endpoint of a cluster gets a request (L2). Verdict only: no I/O, no allocation."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.policy.lb_level cimport LevelShares
from fastmesh._core.shm.cells cimport ClCell, EpCell, EpRow
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, SnapEndpoint

cdef enum:
    LB_AHEAD = 256               # endpoints from which on the next choice is fetched ahead: fewer stay in the cache by themselves

cdef struct LbView:
    EpCell *cells                # [EP_CELLS]
    EpRow *rows                  # [workers]
    uint32_t workers
    uint32_t self_row
    uint64_t now_ns
    uint64_t key                 # hash of what the request is told apart by: consistent hashing
    bint keyed                   # it has one
    const ClCell *clusters       # [CL_CELLS]
    bint panic                   # ejections do not count: lb_pick decides
    bint *probe                  # set when the request is the one that finds out whether an ejected endpoint is back
    uint64_t *dice               # this worker's generators, [CL_CELLS], one a cluster (0: not begun): what a cluster draws next can be
                                 # foreseen, see LB_AHEAD; NULL: everything is drawn from the caller's
    uint32_t *rr                 # this worker's round-robin counters, [EP_CELLS], indexed by the cell of the cluster's first endpoint
    const uint32_t *tried        # cells of the endpoints of earlier attempts, the last one first: not there again
    uint32_t ntried
    uint32_t remote              # attempts so far of a request whose retries may leave levels that are well (AF_RETRY_ANYWHERE); else 0
    LevelShares *shares          # this worker's, [CL_CELLS]

cdef const SnapEndpoint *lb_pick(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng) noexcept nogil
"""An endpoint, or NULL when the cluster has none. None of those that v.tried names while there is another that can be used;
when all are named, any but the last. Endpoints with ejected_until_ns > now, and those that are HE_UNHEALTHY, are skipped. With outlier
detection (OF_ON) or health checks none is left when all are; with outlier detection, fewer than panic_percent left means that none is
skipped, and one whose ejection is over is given to one request (outlier_claim). Weights: ROUND_ROBIN and RANDOM follow weights,
LEAST_REQUEST compares active/weight of two random picks, and PEAK_EWMA their cost. RING_HASH and MAGLEV go by v.key, or by weight for a
request without one. With levels the choice is made within one: the nearest as far as it can take the requests (policy/lb_level), a retry
with v.remote in the next ones. `rng`: state of the caller's xorshift64*."""

cdef inline uint64_t rng_next(uint64_t *s) noexcept nogil:
    """xorshift64*: not for secrets."""
    cdef uint64_t x = s[0]
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    s[0] = x
    return x * <uint64_t>0x2545F4914F6CDD1D
