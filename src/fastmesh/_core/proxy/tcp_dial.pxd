"""Where a TCP session goes (L3): the policies of its listener, its route, an endpoint, a connection to it. What becomes of the session is
proxy/tcp's to do: what is not possible is told as TcpWhy."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.proxy.ctx cimport Tcp

cdef enum:
    TCP_DIALS = 3                # endpoints that are tried for a session (Envoy's max_connect_attempts: 1): none has seen a byte of it

cdef struct TcpWhy:              # why a session ends
    uint32_t rf                  # RF_*
    int counter                  # ST_*
    const char *details          # a literal

cdef int tcp_match(Tcp *t, Slice name, RouteMatch *rm) noexcept nogil
"""FM_OK or FM_ENOROUTE. name: of its ClientHello; empty: none."""
cdef bint tcp_route(Tcp *t, Slice name, TcpWhy *why) noexcept nogil
"""Judge and route it: t.cluster, t.idle_ms, what the log names."""
cdef bint tcp_dial(Tcp *t, TcpWhy *why) noexcept nogil
"""t.up is being dialled, at the first endpoint that can be."""
cdef bint tcp_dial_again(Tcp *t, TcpWhy *why, const char *details) noexcept nogil
"""A dial has failed (the caller closes that Conn): it is judged, and another endpoint is dialled if that can help."""
cdef void tcp_judge(Tcp *t, int kind, uint64_t ns) noexcept nogil
"""What the dial has shown of the endpoint (OUT_*), in what time; of what comes later, nobody knows whose fault it is."""
cdef void tcp_leave(Tcp *t) noexcept nogil
"""The upstream connection, whose Conn the caller closes, and the endpoint."""
