"""The step of weighted round robin (L1): arithmetic, made when a cluster is packed. Knows no cluster."""
from libc.stdint cimport uint32_t, uint64_t

cdef uint32_t rr_stride(uint64_t total) noexcept nogil
"""A step coprime to the total: `total` steps visit every place of the cycle once, so that weighted round robin is exact over a
cycle. Of those near the golden section the one whose fraction step/total has the smallest partial quotients: the fewer steps then
come back near where they began, and shares are kept within a few requests at any time."""
