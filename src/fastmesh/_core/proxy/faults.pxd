"""Faults that a route injects (L3): a delay before the first attempt, an answer in the place of an attempt.

Both are dice of the route, thrown for each request (the delay) and for each attempt (the abort), so that timeouts and retries are tried out
too: a delayed request runs out of time like any other, and an abort whose status is a reason to retry is one (Istio turns both off).
"""
from fastmesh._core.proxy.ctx cimport Exchange

cdef bint faults_delay(Exchange *ex) noexcept nogil
"""The request waits: its timer is set, and it is to go on with its first attempt when that is over."""
cdef bint faults_abort(Exchange *ex) noexcept nogil
"""This attempt is answered by the fault: with plan.abort_status, or plan.abort_grpc of a gRPC call."""
