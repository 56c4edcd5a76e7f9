"""Histogram bins, series lookup and peer interning (L1). Owns the tables of bounds; knows nothing of what is measured.

Everything here is called by the one worker that owns the row: plain stores, with a release where a reader decides by the word.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastmesh._core.base.sys cimport fm_fence, fm_store_release32
from fastmesh._core.shm.layout cimport PEER_BYTES, PEER_SLOTS, SERIES_SLOTS
from fastmesh._core.shm.stats cimport (
    HIST_BINS, ST_SERIES_OVERFLOW, PeerTable, Series, SeriesKey, SeriesTable, StatsRow, stat_inc)

cdef extern from *:
    """
    /* upper bounds, inclusive; the bin behind the last is +Inf */
    static const uint64_t fm_duration_us[19] = {
        500, 1000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000,
        300000000, 600000000, 1800000000, 3600000000ull};
    static const uint64_t fm_hop_us[19] = {
        10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10000, 25000, 100000};
    static const uint64_t fm_bytes[19] = {
        0, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000};
    """
    const uint64_t fm_duration_us[19]
    const uint64_t fm_hop_us[19]
    const uint64_t fm_bytes[19]

cdef enum:
    INDEX_SLOTS = 2048             # of SeriesTable.index: at most half full, so that a probe ends soon


cdef const uint64_t *hist_bounds(int which) noexcept nogil:
    if which == 0:
        return fm_duration_us
    if which == 1:
        return fm_hop_us
    return fm_bytes


cdef inline uint32_t bin_of(const uint64_t *bounds, uint64_t v) noexcept nogil:
    # most values fall into the low bins: a linear walk is as fast as a search by halves
    cdef uint32_t i = 0
    while i < HIST_BINS - 1 and v > bounds[i]:
        i += 1
    return i


cdef uint32_t hist_ms_bin(uint64_t us) noexcept nogil:
    return bin_of(fm_duration_us, us)


cdef uint32_t hist_us_bin(uint64_t us) noexcept nogil:
    return bin_of(fm_hop_us, us)


cdef uint32_t hist_bytes_bin(uint64_t n) noexcept nogil:
    return bin_of(fm_bytes, n)


cdef inline uint64_t key_hash(const SeriesKey *k) noexcept nogil:
    cdef uint64_t h = k.cluster
    h ^= (<uint64_t>k.endpoint << 32) | k.flags
    h *= <uint64_t>0x9E3779B97F4A7C15
    h ^= h >> 32
    h ^= ((<uint64_t>k.grpc << 56) | (<uint64_t>k.status << 40) | (<uint64_t>k.peer << 24) | (<uint64_t>k.direction << 16)
          | (<uint64_t>k.security << 8) | k.protocol)
    h *= <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 29)


cdef inline bint key_eq(const SeriesKey *a, const SeriesKey *b) noexcept nogil:
    return (a.cluster == b.cluster and a.endpoint == b.endpoint and a.flags == b.flags and a.status == b.status and a.peer == b.peer
            and a.direction == b.direction and a.security == b.security and a.protocol == b.protocol and a.grpc == b.grpc)


cdef Series *series_get(SeriesTable *t, StatsRow *r, const SeriesKey *k) noexcept nogil:
    cdef uint32_t i = <uint32_t>key_hash(k) & (INDEX_SLOTS - 1)
    cdef uint32_t at
    cdef Series *s
    while t.index[i] != 0:
        at = t.index[i] - 1
        if at >= SERIES_SLOTS - 1:
            break
        if key_eq(&t.s[at].key, k):
            return &t.s[at]
        i = (i + 1) & (INDEX_SLOTS - 1)
    at = t.n
    if at >= SERIES_SLOTS - 1:
        stat_inc(r, ST_SERIES_OVERFLOW)
        s = &t.s[SERIES_SLOTS - 1]
        s.key.used = 1
        s.key.endpoint = 0xffffffff
        fm_store_release32(&t.overflowed, 1)
        return s
    s = &t.s[at]
    s.key = k[0]
    s.key.used = 1
    # In this order: a worker killed in between leaves a series that no index names (the reader merges it by its key), never an
    # index to a slot that the next process gives to another key.
    fm_store_release32(&t.n, at + 1)
    fm_fence()
    t.index[i] = <uint16_t>(at + 1)
    return s


cdef uint16_t peer_intern(PeerTable *t, const char *sid, uint32_t n) noexcept nogil:
    # called once a TLS connection, not once a request: a linear search over at most 256 rows does
    cdef uint32_t i
    cdef uint32_t used = t.n
    if n == 0:
        return 0
    if used == 0:
        used = 1                   # row 0 is the empty identity
    if n >= PEER_BYTES:
        return PEER_SLOTS - 1
    for i in range(1, used):
        if t.id[i][n] == 0 and memcmp(t.id[i], sid, n) == 0:
            return <uint16_t>i
    if used >= PEER_SLOTS - 1:
        return PEER_SLOTS - 1
    memcpy(t.id[used], sid, n)
    t.id[used][n] = 0
    fm_store_release32(&t.n, used + 1)
    return <uint16_t>used
