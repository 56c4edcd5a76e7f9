"""Mirroring (L3): copies of a request to other clusters, whose answers are thrown away.

A copy is an exchange without a client. It begins when its request is complete and has gone on, so that it costs the request no wait; a
body is copied from the replay buffer, and a request that this does not hold (above REPLAY_BYTES, with trailers, or answered before it was
complete) is not mirrored, which is counted.
"""
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.snapshot cimport SnapAction

cdef void mirror_plan(Exchange *ex, const SnapAction *a) noexcept nogil
"""Which of the route's mirrors get this request: into ex.plan."""
cdef void mirror_send(Exchange *ex) noexcept nogil
"""The request is complete: send the copies. Once."""
