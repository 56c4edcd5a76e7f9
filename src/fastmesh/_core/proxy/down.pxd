"""Downstream connections, whatever they speak (L3): the worker's list of them, their counters, what TLS says of the client."""
from libc.stdint cimport uint32_t
from fastmesh._core.net.conn cimport Conn
from fastmesh._core.proxy.ctx cimport Down, ListenerState, Worker

cdef void down_begin(Down *d, Worker *w, ListenerState *l, int version) noexcept nogil
"""A codec's new connection (its first members are a Down): into the list, counted."""
cdef void down_end(Down *d) noexcept nogil
"""The codec lets go of the connection: out of the list; the object goes back to its pool at the end of the turn."""
cdef void down_handover(Down *from_, Down *to, int version) noexcept nogil
"""Another codec takes the connection over: to has its place in the list; from_ goes back to its pool at the end of the turn."""
cdef void down_secured(Down *d) noexcept nogil
"""The connection is up: security and the peer's identity from TLS."""
cdef void down_unsecured(const Conn *c, Worker *w, int code) noexcept nogil
"""It failed (code as ConnOps.failed): count why, if that was before it was up."""
cdef void down_bytes(Down *d) noexcept nogil
"""Move the connection's byte counts into the worker's counters."""
cdef bint down_refused_plain(Down *d) noexcept nogil
"""A plaintext connection that came while its listener was PERMISSIVE and now is on a STRICT one (counted)."""
cdef void down_reap(Worker *w) noexcept nogil
"""At the end of a turn: objects back into their pools."""
