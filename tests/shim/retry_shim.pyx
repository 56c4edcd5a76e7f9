"""policy/breaker over a Segment's workers and a frozen snapshot, and policy/retry, as Python values."""
from libc.stdint cimport uint32_t, uint64_t

from fastmesh._core.policy.breaker cimport breaker_request, breaker_request_done, breaker_retry, breaker_retry_done
from fastmesh._core.policy.retry cimport retry_backoff_ms
from fastmesh._core.shm.segment cimport SegMap, Segment, segment_map
from fastmesh._core.shm.snapshot cimport Snap, SnapCluster, fnv64, snap_cluster, snap_open
from shim.shm_shim cimport Frozen


def backoff_ms(uint32_t attempt, uint32_t base_ms, uint32_t most_ms, uint64_t random):
    return retry_backoff_ms(attempt, base_ms, most_ms, random)


cdef class Breaker:
    """One worker's use of a cluster."""
    cdef Frozen frozen
    cdef Segment segment
    cdef SegMap m
    cdef Snap s
    cdef const SnapCluster *c

    def __cinit__(self, Frozen frozen, Segment segment, int slot, str name):
        raw = name.encode()
        self.frozen = frozen
        self.segment = segment
        if segment_map(segment, slot, &self.m) != 0:
            raise MemoryError
        snap_open(&self.s, frozen.base)
        self.c = snap_cluster(&self.s, fnv64(raw, len(raw)))
        if self.c == NULL:
            raise KeyError(name)

    def request(self):
        return breaker_request(&self.m, self.c)

    def request_done(self):
        breaker_request_done(&self.m, self.c.cell)

    def retry(self):
        return breaker_retry(&self.m, self.c)

    def retry_done(self):
        breaker_retry_done(&self.m, self.c.cell)

    def counts(self):
        """(requests in flight, those of them beyond their first attempt, refusals) of this worker."""
        s = &self.m.cluster_rows[self.m.self_row].c[self.c.cell]
        return s.active, s.retries, s.overflows
