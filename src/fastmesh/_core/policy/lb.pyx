"""Which endpoint of a cluster gets a request (L2). Owns the ways to choose (lb_hash: tables of hashing, lb_ewma: what an endpoint costs,
lb_level: shares of levels, lb_warm: the share of a new one); reads snapshot and cells, writes only v.rr and v.shares.

The common case looks at one endpoint's cell (ROUND_ROBIN, RANDOM, hashing) or two (LEAST_REQUEST, PEAK_EWMA). Only when the choice falls on
one that is ejected or to be avoided are all looked at (hashing: the next ones on the key's way first), and the request goes to one of the
others by weight, so that no neighbour takes it all.

In a large cluster a random choice falls on memory that no cache holds: two or three fetches one after the other, some 150 ns. What the
next request will draw is known, though, when each cluster has a generator of its own, so this one sends for it and does not wait.

A cluster with levels is chosen from as if the level were the cluster.
"""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.base.sys cimport fm_load_relaxed, fm_load_relaxed32
from fastmesh._core.policy.health cimport health_out
from fastmesh._core.policy.lb cimport LbView, rng_next
from fastmesh._core.policy.lb_ewma cimport ewma_cost
from fastmesh._core.policy.lb_hash cimport HashWalk, hash_begin, hash_next
from fastmesh._core.policy.lb_level cimport LEVEL_FRESH_EACH_NS, LEVEL_FRESH_NS, LevelShares, level_at, level_shares
from fastmesh._core.policy.lb_warm cimport WARM_TRIES, WARM_WHOLE, warm_share
from fastmesh._core.policy.outlier cimport outlier_claim
from fastmesh._core.shm.cells cimport HE_UNHEALTHY
from fastmesh._core.shm.hashtab cimport mix64
from fastmesh._core.shm.snapshot cimport (
    CL_EQUAL, HK_NONE, LB_LEAST_REQUEST, LB_PEAK_EWMA, LB_RING_HASH, LB_ROUND_ROBIN, OF_ON, SNAP_MAX_LEVELS, Snap, SnapCluster, SnapEndpoint,
    SnapLevel)

cdef extern from *:
    """
    /* the empty statement: gcc takes a function that only fetches for one without effect, and drops the call */
    static inline void fm_fetch(const void *p) { __builtin_prefetch(p); __asm__ volatile(""); }
    """
    void fm_fetch(const void *p) nogil


cdef inline uint32_t below(uint64_t *rng, uint32_t n) noexcept nogil:
    """A random number in 0..n-1 (n > 0); the bias is below n / 2^32."""
    return <uint32_t>(((rng_next(rng) >> 32) * n) >> 32)


cdef inline bint ejected(const LbView *v, const SnapEndpoint *e) noexcept nogil:
    return not v.panic and (fm_load_relaxed(&v.cells[e.cell].ejected_until_ns) > v.now_ns
                            or fm_load_relaxed32(&v.cells[e.cell].health) == HE_UNHEALTHY)


cdef inline bint tried(const LbView *v, const SnapEndpoint *e, uint32_t skip) noexcept nogil:
    """Whether it is one of the last `skip` that were tried."""
    cdef uint32_t i
    for i in range(skip):
        if v.tried[i] == e.cell:
            return True
    return False


cdef inline bint usable(const LbView *v, const SnapEndpoint *e) noexcept nogil:
    return not tried(v, e, v.ntried) and not ejected(v, e)


cdef inline const SnapEndpoint *at_weight(const SnapCluster *c, const SnapEndpoint *e, uint32_t place) noexcept nogil:
    """Whose share of the cluster's total weight this place (below the total) is."""
    cdef uint32_t lo = 0
    cdef uint32_t hi = c.endpoints.n - 1
    cdef uint32_t mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if e[mid].upto <= place:
            lo = mid + 1
        else:
            hi = mid
    return e + lo


cdef inline const SnapEndpoint *by_weight(const SnapCluster *c, const SnapEndpoint *e, uint64_t *rng) noexcept nogil:
    if c.flags & CL_EQUAL:
        return e + below(rng, c.endpoints.n)
    return at_weight(c, e, below(rng, c.total_weight))


cdef const SnapEndpoint *among(const SnapCluster *c, const SnapEndpoint *e, const LbView *v, uint64_t *rng, uint32_t skip,
                               bint also_ejected) noexcept nogil:
    """By weight among those that may be used, but for the last `skip` that were tried; NULL if there is none."""
    cdef uint64_t total = 0
    cdef uint64_t place
    cdef uint32_t i
    for i in range(c.endpoints.n):
        if not tried(v, &e[i], skip) and (also_ejected or not ejected(v, &e[i])):
            total += e[i].weight
    if total == 0:
        return NULL
    place = below(rng, <uint32_t>total)
    for i in range(c.endpoints.n):
        if not tried(v, &e[i], skip) and (also_ejected or not ejected(v, &e[i])):
            if place < e[i].weight:
                return &e[i]
            place -= e[i].weight
    return NULL                    # another worker ejected one between the two walks


cdef inline bint present(const SnapCluster *c, const LbView *v, const SnapEndpoint *e, uint64_t *rng) noexcept nogil:
    """Whether an endpoint may be chosen now: one that warms up only as often as its share says."""
    return c.warm_ms == 0 or below(rng, WARM_WHOLE) < warm_share(&v.cells[e.cell], c, v.now_ns)


cdef inline uint64_t weight_of(const SnapCluster *c, const LbView *v, const SnapEndpoint *e) noexcept nogil:
    """For comparisons within a cluster."""
    return e.weight if c.warm_ms == 0 else <uint64_t>e.weight * warm_share(&v.cells[e.cell], c, v.now_ns)


cdef inline const SnapEndpoint *next_in_turn(const SnapCluster *c, const SnapEndpoint *e, const LbView *v, uint64_t *rng) noexcept nogil:
    cdef uint32_t *turn = &v.rr[e.cell]
    if turn[0] == 0:
        turn[0] = <uint32_t>(rng_next(rng) >> 32)   # each worker begins elsewhere: they do not march in step
    turn[0] += 1
    if c.flags & CL_EQUAL:
        return e + turn[0] % c.endpoints.n
    return at_weight(c, e, <uint32_t>(<uint64_t>turn[0] * c.rr_stride % c.total_weight))


cdef inline const SnapEndpoint *in_turn(const SnapCluster *c, const SnapEndpoint *e, const LbView *v, uint64_t *rng) noexcept nogil:
    cdef const SnapEndpoint *found = next_in_turn(c, e, v, rng)
    cdef int tries = WARM_TRIES
    while tries > 0 and not present(c, v, found, rng):
        found = next_in_turn(c, e, v, rng)
        tries -= 1
    return found


cdef inline uint64_t load_of(const LbView *v, const SnapEndpoint *e) noexcept nogil:
    """Exchanges in flight there, of all workers."""
    cdef uint64_t sum = 0
    cdef uint32_t w
    for w in range(v.workers):
        sum += fm_load_relaxed32(&v.rows[w].e[e.cell].active)
    return sum


cdef inline double cost_of(const SnapCluster *c, const LbView *v, const SnapEndpoint *e) noexcept nogil:
    """Of what is in flight there, twice the weight may have twice as much."""
    cdef double fair = <double>c.total_weight * (1 if c.warm_ms == 0 else WARM_WHOLE) / c.endpoints.n
    return ewma_cost(&v.cells[e.cell], v.now_ns, c.decay_ms, load_of(v, e) * fair / weight_of(c, v, e))


cdef inline const SnapEndpoint *less_loaded(const SnapCluster *c, const SnapEndpoint *e, const LbView *v, uint64_t *rng) noexcept nogil:
    """Power of two choices: of two different endpoints the one with fewer exchanges in flight for its weight, or of less cost. Where both are
    as busy the first choice stands, which was made by weight: an idle cluster is used by weight too. One that warms up is looked at seldom."""
    cdef const SnapEndpoint *a = by_weight(c, e, rng)
    cdef const SnapEndpoint *b
    cdef uint32_t i, k, place
    cdef int tries = WARM_TRIES
    if c.endpoints.n == 1:
        return a
    while tries > 0 and not present(c, v, a, rng):
        a = by_weight(c, e, rng)
        tries -= 1
    i = <uint32_t>(a - e)
    if c.flags & CL_EQUAL:
        k = below(rng, c.endpoints.n - 1)
        b = e + (k + 1 if k >= i else k)
    else:
        # by weight among all but a: places with a's share left out
        place = below(rng, c.total_weight - a.weight)
        b = at_weight(c, e, place if place < a.upto - a.weight else place + a.weight)
    if not usable(v, b):
        return a
    if not usable(v, a):
        return b
    if not present(c, v, b, rng):
        return a
    if c.lb == LB_PEAK_EWMA:
        return b if cost_of(c, v, b) < cost_of(c, v, a) else a
    return b if load_of(v, b) * weight_of(c, v, a) < load_of(v, a) * weight_of(c, v, b) else a


cdef inline const SnapEndpoint *by_key(const Snap *s, const SnapCluster *c, const SnapEndpoint *e, const LbView *v) noexcept nogil:
    """The key's endpoint, or the next on its way that is usable. When none is found, the key's own: who then takes it is as for all."""
    cdef HashWalk walk
    cdef uint32_t own, place
    hash_begin(&walk, s, c, v.key)
    if not hash_next(&walk, &own):
        return e
    place = own
    while not usable(v, e + place):
        if not hash_next(&walk, &place):
            return e + own
    return e + place


cdef const SnapEndpoint *choose(const Snap *s, const SnapCluster *c, const LbView *v, uint64_t *rng) noexcept nogil:
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef const SnapEndpoint *found
    if c.endpoints.n == 0:
        return NULL
    if c.lb == LB_LEAST_REQUEST or c.lb == LB_PEAK_EWMA:
        found = less_loaded(c, e, v, rng)
    elif c.lb == LB_ROUND_ROBIN:
        found = in_turn(c, e, v, rng)
    elif c.lb >= LB_RING_HASH and v.keyed:
        found = by_key(s, c, e, v)
    else:
        found = by_weight(c, e, rng)
    if usable(v, found):
        return found
    found = among(c, e, v, rng, v.ntried, False)
    if found == NULL and v.ntried > 1:
        # all have been tried: the one that has just failed is the last choice
        found = among(c, e, v, rng, 1, False)
    if found == NULL and (c.outlier.flags & OF_ON or c.health.kind != HK_NONE):
        # better the one to be avoided than one that is ejected
        return among(c, e, v, rng, 0, False)
    if found == NULL:
        # ejections that are left of a config before this one: better one of them than none
        found = among(c, e, v, rng, 1 if v.ntried else 0, True)
    return found if found != NULL else e


cdef inline bint few(const SnapCluster *c, uint64_t out) noexcept nogil:
    cdef uint64_t n = c.endpoints.n
    return out != 0 and (n - out if out < n else 0) * 100 < c.panic_percent * n


cdef bint panic(const Snap *s, const SnapCluster *c, const LbView *v) noexcept nogil:
    cdef uint32_t ejected = fm_load_relaxed32(&v.clusters[c.cell].ejected)
    cdef uint32_t unhealthy = fm_load_relaxed32(&v.clusters[c.cell].unhealthy)
    if ejected and unhealthy and few(c, <uint64_t>ejected + unhealthy):
        return few(c, health_out(v.cells, s, c))  # who is both is in both counts
    return few(c, <uint64_t>ejected + unhealthy)


cdef const SnapEndpoint *watched(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng) noexcept nogil:
    """The choice in a cluster with outlier detection."""
    cdef const SnapEndpoint *found
    cdef uint64_t until
    cdef uint32_t i
    if c.panic_percent and not v.panic:
        v.panic = panic(s, c, v)
    for i in range(c.endpoints.n + 1):
        found = choose(s, c, v, rng)
        if found == NULL:
            return NULL
        until = fm_load_relaxed(&v.cells[found.cell].ejected_until_ns)
        if until == 0:
            return found
        if outlier_claim(c, &v.cells[found.cell], v.self_row, v.now_ns):
            v.probe[0] = True
            return found
        if v.panic:
            return found
        # another worker has just taken the probe, or ejected it: choose among the rest
    return NULL


cdef inline void fetch(const LbView *v, const SnapEndpoint *e) noexcept nogil:
    """What usable, load_of and cost_of read."""
    cdef uint32_t w
    fm_fetch(&v.cells[e.cell])
    for w in range(v.workers):
        fm_fetch(&v.rows[w].e[e.cell])


cdef void fetch_ahead(const Snap *s, const SnapCluster *c, const LbView *v, uint64_t rng) noexcept nogil:
    """Sends for what the next choice will look at, and for the endpoints (which say where that is) of the one after it. Draws as less_loaded
    and by_weight do, where weights and warm-up let that be foreseen; a guess that is wrong costs a fetch for nothing."""
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint32_t n = c.endpoints.n
    cdef uint32_t i, k
    cdef bint two = c.lb == LB_LEAST_REQUEST or c.lb == LB_PEAK_EWMA
    if not c.flags & CL_EQUAL or c.warm_ms or c.lb == LB_ROUND_ROBIN or (c.lb >= LB_RING_HASH and v.keyed):
        return
    i = below(&rng, n)
    fetch(v, e + i)
    if two:
        k = below(&rng, n - 1)
        fetch(v, e + (k + 1 if k >= i else k))
    i = below(&rng, n)
    fm_fetch(e + i)
    if two:
        k = below(&rng, n - 1)
        fm_fetch(e + (k + 1 if k >= i else k))


# ---- levels ----------------------------------------------------------------------------------------------------------------------------

cdef void count(const Snap *s, const SnapCluster *c, const LbView *v, LevelShares *k, uint32_t out) noexcept nogil:
    cdef const SnapLevel *l = <const SnapLevel *>(s.base + c.levels.off)
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + c.endpoints.off)
    cdef uint32_t well[SNAP_MAX_LEVELS]
    cdef uint32_t i, place
    for i in range(c.levels.n):
        well[i] = 0
        for place in range(l[i].first, l[i].first + l[i].n):
            if not ejected(v, &e[place]):
                well[i] += 1
    k.available = level_shares(l, c.levels.n, well, k.upto)
    k.generation = <uint32_t>s.generation
    k.out = out
    k.until_ns = v.now_ns + LEVEL_FRESH_NS + <uint64_t>LEVEL_FRESH_EACH_NS * c.endpoints.n


cdef uint32_t by_total(const SnapLevel *l, uint32_t n, uint32_t place) noexcept nogil:
    """The level whose share of the cluster's total weight this place is."""
    cdef uint32_t i = 0
    while i + 1 < n and place >= l[i].total_weight:
        place -= l[i].total_weight
        i += 1
    return i


cdef uint32_t by_percent(const SnapLevel *l, uint32_t n, uint64_t *dice) noexcept nogil:
    """... of the shares that config gives."""
    cdef uint32_t sum = 0
    cdef uint32_t i
    cdef uint32_t place
    for i in range(n):
        sum += l[i].share
    place = below(dice, sum)
    i = 0
    while i + 1 < n and place >= l[i].share:
        place -= l[i].share
        i += 1
    return i


cdef uint32_t level_of(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng) noexcept nogil:
    """The level that a request goes to; v.panic is set where ejections do not count."""
    cdef const SnapLevel *l = <const SnapLevel *>(s.base + c.levels.off)
    cdef LevelShares *k = &v.shares[c.cell]
    cdef uint32_t out = fm_load_relaxed32(&v.clusters[c.cell].ejected) + fm_load_relaxed32(&v.clusters[c.cell].unhealthy)
    cdef uint32_t n = c.levels.n
    # a key goes to the same level as long as shares are the same
    cdef uint64_t own = mix64(v.key ^ <uint64_t>0x9e3779b97f4a7c15) | 1
    cdef uint64_t *dice = &own if v.keyed and c.lb >= LB_RING_HASH else rng
    if out == 0:
        return by_percent(l, n, dice) if l[0].share else 0
    if k.out != out or k.generation != <uint32_t>s.generation or k.until_ns <= v.now_ns:
        count(s, c, v, k, out)
    # as in Envoy: as long as the other levels can take everything there is no reason to panic
    if k.available < 100 and c.panic_percent != 0 and panic(s, c, v):
        v.panic = True
        return by_total(l, n, below(dice, c.total_weight))
    return level_at(k.upto, n, below(dice, k.upto[n - 1])) if k.upto[n - 1] else 0


cdef bint offers(const Snap *s, const SnapCluster *part, const LbView *v, uint32_t skip) noexcept nogil:
    """Whether a level has an endpoint that can be used and is none of the last `skip` that were tried."""
    cdef const SnapEndpoint *e = <const SnapEndpoint *>(s.base + part.endpoints.off)
    cdef uint32_t i
    for i in range(part.endpoints.n):
        if not tried(v, &e[i], skip) and not ejected(v, &e[i]):
            return True
    return False


cdef const SnapEndpoint *within(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng, uint32_t at,
                                uint32_t skip) noexcept nogil:
    """The choice in the first level from `at` on that has one (from behind the last one on: the nearest). With `skip`: that offers one
    other than the last so many that were tried."""
    cdef const SnapLevel *l = <const SnapLevel *>(s.base + c.levels.off)
    cdef const SnapEndpoint *found
    cdef SnapCluster part = c[0]
    cdef uint32_t i
    part.panic_percent = 0         # it is decided, and not by the level alone
    for i in range(c.levels.n):
        part.endpoints.off = c.endpoints.off + l[at].first * <uint32_t>sizeof(SnapEndpoint)
        part.endpoints.n = l[at].n
        part.total_weight = l[at].total_weight
        part.rr_stride = l[at].rr_stride
        part.hash_table = l[at].hash_table
        if skip == 0 or offers(s, &part, v, skip):
            found = watched(s, &part, v, rng) if c.outlier.flags & OF_ON else choose(s, &part, v, rng)
            if found != NULL:
                return found
        at = at + 1 if at + 1 < c.levels.n else 0
    return NULL


cdef const SnapEndpoint *by_level(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng) noexcept nogil:
    cdef const SnapLevel *l = <const SnapLevel *>(s.base + c.levels.off)
    cdef const SnapEndpoint *found = NULL
    cdef uint32_t at = level_of(s, c, v, rng)
    cdef uint32_t least
    if v.remote:
        # as Envoy's previous_priorities with the frequency that Istio gives it: two attempts in each level
        least = v.remote / 2 % c.levels.n
        if l[0].share == 0 and at < least:
            at = least
        if v.ntried:
            found = within(s, c, v, rng, at, v.ntried)
            if found == NULL:
                found = within(s, c, v, rng, at, 1)
    return found if found != NULL else within(s, c, v, rng, at, 0)


cdef const SnapEndpoint *lb_pick(const Snap *s, const SnapCluster *c, LbView *v, uint64_t *rng) noexcept nogil:
    cdef const SnapEndpoint *found
    cdef bint large = c.endpoints.n >= LB_AHEAD and v.dice != NULL
    v.panic = False
    if c.levels.n:
        return by_level(s, c, v, rng)
    if large:
        if v.dice[c.cell] == 0:
            v.dice[c.cell] = rng_next(rng) | 1
        rng = &v.dice[c.cell]
    if c.outlier.flags & OF_ON:
        found = watched(s, c, v, rng)
    else:
        found = choose(s, c, v, rng)
    if large:
        fetch_ahead(s, c, v, rng[0])
    return found
