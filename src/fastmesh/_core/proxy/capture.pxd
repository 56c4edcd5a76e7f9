"""Connections of the application that were on their way elsewhere and were redirected here (L3): HTTP, TLS or anything else?

Where the address that was called says it (a declared TCP port, an address of an HTTP service), nothing is found out. Else the address is
dialled at once while the client's first bytes are awaited, and whoever speaks first decides: so a server that speaks first waits for no
timer, and HTTP is never taken for bytes because its client is slow. Where a client has spoken first, the next one is given a moment before
anything is dialled: an HTTP server then sees no connection that nobody needs.

It finds out and dials; what becomes of the session is proxy/tcp's to do, as the CAP_* say.
"""
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proxy.ctx cimport Tcp

cdef enum:
    GUESS_LATER_MS = 100         # how long a client gets to speak where the last one did so first
    GUESS_FAILED_MS = 1000       # ... where nobody answers: it may be HTTP, which is told so; else this is all the client sees later

cdef enum:  # what is to be done with the session
    CAP_WAIT = 0                 # nothing is known yet
    CAP_GO                       # TCP, by t.up, which is connected (TF_GUESSED) or about to be
    CAP_ROUTE                    # TCP, to be routed
    CAP_HTTP                     # it is HTTP, and is not ours any more: t is about to be freed
    CAP_OVER                     # the client is gone
    CAP_FAILED                   # nobody answers at the address that it called, and it says nothing
    CAP_IDLE                     # neither side has ever said anything
    CAP_LATE                     # it has not said all that it has to say first
    CAP_OVERLOAD

cdef int capture_begin(Tcp *t) noexcept nogil
"""A new connection of a captured outbound listener that was redirected. CAP_WAIT or CAP_ROUTE."""
cdef int capture_heard(Tcp *t, char *scratch, Slice *name) noexcept nogil
"""The client has said something. scratch: HELLO_MOST bytes. CAP_ROUTE: by this name, in the kept bytes or in scratch."""
cdef int capture_answered(Tcp *t) noexcept nogil
"""The other side has said something first, or has closed: CAP_GO."""
cdef void capture_failed(Tcp *t) noexcept nogil
"""t.up could not be connected; the caller closes it."""
cdef int capture_late(Tcp *t) noexcept nogil
"""The deadline has passed."""
