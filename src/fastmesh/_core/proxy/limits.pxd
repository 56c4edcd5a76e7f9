"""Rate limits of a route and who asks (L3): a token of each bucket for a request.

A caller is the SPIFFE ID of its certificate, else its address without port. The decision itself is policy/ratelimit's.
"""
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.snapshot cimport SnapAction

cdef bint limits_take(Exchange *ex, const SnapAction *a) noexcept nogil
"""A token of every limit of this action, or False: one has none, and the others have got theirs back. ex.limit has the figures of the
tightest; forward_response puts them into the answer."""
