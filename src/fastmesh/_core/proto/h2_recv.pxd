"""HTTP/2 frames in (L1), RFC 9113: parses what came, keeps the state, tells events. Limits are in h2_limits, frames without a message in h2_control."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.proto.h2_stream cimport H2

cdef int h2_recv(H2 *h, const char *p, uint32_t n, uint64_t now_ms) noexcept nogil
"""Take what is complete of p[0:n]: bytes used (DATA is taken as it comes, other frames whole, so at most 9 + H2_MAX_FRAME bytes are ever left
over), or FM_EH2: GOAWAY with h.error has been queued, nothing more is read, the caller flushes and closes."""
