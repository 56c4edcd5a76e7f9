"""Retries (L2). See retry.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastmesh._core.proto.msg cimport Msg, msg_find_name
from fastmesh._core.shm.snapshot cimport RO_5XX, RO_GATEWAY_ERROR, RO_RATELIMITED, RO_RETRIABLE_4XX, RO_STATUSES

cdef enum:
    DOUBLINGS = 20               # beyond this any base is above any limit


cdef uint32_t retry_on_status(int status, const uint16_t *statuses, uint32_t n) noexcept nogil:
    cdef uint32_t found = 0
    cdef uint32_t i
    if 500 <= status <= 599:
        found = RO_5XX
        if 502 <= status <= 504:
            found |= RO_GATEWAY_ERROR
    elif status == 409:
        found = RO_RETRIABLE_4XX
    for i in range(n):
        if statuses[i] == status:
            found |= RO_STATUSES
    return found


cdef uint32_t retry_on_limited(uint32_t wanted, uint32_t retry_on, const Msg *m) noexcept nogil:
    # Only where it can change anything: most answers are no reason to retry, and most routes do not ask for this one.
    if not wanted & retry_on and not retry_on & RO_RATELIMITED:
        return wanted
    return RO_RATELIMITED if msg_find_name(m, b"x-envoy-ratelimited", 19) != NULL else wanted


cdef uint64_t retry_backoff_ms(uint32_t attempt, uint32_t base_ms, uint32_t most_ms, uint64_t random) noexcept nogil:
    cdef uint64_t span = ((<uint64_t>1 << (attempt if attempt < DOUBLINGS else DOUBLINGS)) - 1) * base_ms
    if span > most_ms:
        span = most_ms
    return random % span if span else 0
