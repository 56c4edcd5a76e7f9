"""Retries (L2): what an answer or a failure is a reason to repeat, and how long to wait before. Conditions are Envoy's (retry_on, retry_grpc_on);
whether a request may be repeated at all, and whether the budget allows it, is asked elsewhere (proxy/exchange, policy/breaker).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from fastmesh._core.proto.msg cimport Msg

cdef enum:
    RETRY_STATUSES = 16          # retriable-status-codes of one route

cdef uint32_t retry_on_status(int status, const uint16_t *statuses, uint32_t n) noexcept nogil
"""The RO_* that an answer with this status is a case of."""
cdef uint32_t retry_on_limited(uint32_t wanted, uint32_t retry_on, const Msg *m) noexcept nogil
"""What an answer that is a case of `wanted` is a case of once its head has been looked at: one that says x-envoy-ratelimited, whatever the
value and the status, is a case of RO_RATELIMITED and of nothing else, as in Envoy. retry_on: the route's conditions."""
cdef uint64_t retry_backoff_ms(uint32_t attempt, uint32_t base_ms, uint32_t most_ms, uint64_t random) noexcept nogil
"""Full jitter: a whole number in [0, min(most, (2^attempt - 1) * base)). attempt: those made so far, from 1; random: any 64 bits."""
