"""Whether retrying has been given up already, further down the tree of calls (L2).

A chain of hops that each retry multiplies load: four that try three times put 81 requests on a dead leaf. So only the deepest hop that may
retry does. When it gives up (no attempts or no budget left) it remembers the call tree, by the trace id that applications pass on; the answer
that leaves the same sidecar for that tree then says so (x-fastmesh-retry: no), and the caller's hop neither retries nor forgets to say it.
"""
from libc.stdint cimport uint8_t, uint64_t
from fastmesh._core.shm.segment cimport SegMap

cdef enum:
    GIVEUP_SECONDS = 30          # for so long a call tree is remembered

cdef uint64_t giveup_key(const uint8_t *trace_id) noexcept nogil
"""Of the 16 bytes of a trace id; never 0."""
cdef void giveup_note(SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil
cdef bint giveup_noted(const SegMap *m, uint64_t key, uint64_t now_ns) noexcept nogil
