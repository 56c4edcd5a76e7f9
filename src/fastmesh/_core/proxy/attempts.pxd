"""The attempts of an exchange (L3): where they went, and what one hop tells another: which one this is, and that retrying has been given up
(policy/giveup)."""
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef void attempts_asked(Exchange *ex, const Msg *m, const SnapCluster *c) noexcept nogil
"""A request as the client has sent it, on its way to a cluster: counted if the client repeats what has failed here (policy/repeat)."""
cdef void attempts_ended(Exchange *ex) noexcept nogil
"""It is over: remembered if it has failed."""
cdef void attempts_note(Exchange *ex) noexcept nogil
"""An attempt at ex.cell's endpoint is over: the next one goes to another."""
cdef int attempts_send(Exchange *ex, Msg *m) noexcept nogil
"""Say in the head of an attempt which it is (x-envoy-attempt-count, as Istio's sidecars do). FM_OK or FM_EHEAD."""
cdef bint attempts_over(Exchange *ex, const Msg *m) noexcept nogil
"""The answer says that retrying was given up further down: it is remembered, and counted."""
cdef void attempts_gave_up(Exchange *ex) noexcept nogil
"""A retry that the route wants is not made: no attempts or no budget left."""
cdef int attempts_tell(Exchange *ex, Msg *m) noexcept nogil
"""Say so in an answer that leaves this proxy for the caller of the application. FM_OK or FM_EHEAD."""
