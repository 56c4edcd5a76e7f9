"""The messages of grpc.health.v1.Health/Check (L1), doc/health-checking.md of gRPC: a request out, an answer in. Allocates nothing.

Both are protobuf messages with one field behind gRPC's five bytes; anything else in an answer is skipped.
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice

cdef enum:
    GRPC_HEALTH_MORE = 10        # bytes of a request beside the service's name, at most
    GRPC_HEALTH_SERVING = 1      # HealthCheckResponse.ServingStatus

cdef uint32_t grpc_health_request(char *out, Slice service) noexcept nogil
"""service.n + GRPC_HEALTH_MORE bytes are enough; how many there are."""
cdef int grpc_health_status(const char *p, uint32_t n) noexcept nogil
"""The status that a whole answer's body says (0: it says none, which is UNKNOWN), or FM_EBAD."""
