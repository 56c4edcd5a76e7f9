"""What a peer may do on an HTTP/2 connection (L1): every limit, its account and the error that ends a stream or the connection.

Each limit has a counter (H2N_*) and ends the connection with ENHANCE_YOUR_CALM; rates are per second of the caller's clock.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.proto.h2_stream cimport H2, H2Stream

cdef enum:
    H2_MAX_STREAMS = 1024        # concurrent, per connection (Envoy); more: REFUSED_STREAM
    H2_STREAM_WINDOW = 65536     # what a peer may send on a stream before it is read by the other side: 0.6 GB/s at 0.1 ms, and what a stalled one holds
    H2_CONN_WINDOW = 16777216    # ... on all streams of a connection: twice what SHARE_STREAMS stalled ones hold, so that they never stop the others
    H2_EDGE_STREAMS = 256        # the same three towards clients of a gateway, who are not trusted (Envoy's advice for an edge: 100, 64 KiB, 1 MiB)
    H2_EDGE_STREAM_WINDOW = 65536
    H2_EDGE_CONN_WINDOW = 1048576
    H2_RESETS_IN = 200           # RST_STREAM a second before the answer was begun: rapid reset, CVE-2023-44487
    H2_RESETS_OUT = 200          # resets a second that the peer provokes: MadeYouReset, CVE-2025-8671
    H2_RESETS_TRUST = 50         # times both, on a link: it carries many clients' requests, and what one of them may do all may do at once;
    #                              times H2_RESETS_OUT, as a client: a server provokes nothing that we did not ask for
    H2_CONTINUATIONS = 32        # frames of one header block: CONTINUATION flood, CVE-2024-27316; its bytes: MSG_MAX_HEAD
    H2_PINGS = 100               # a second, CVE-2019-9512
    H2_SETTINGS_RATE = 100       # a second, CVE-2019-9515
    H2_EMPTY_FRAMES = 1000       # a second: DATA, HEADERS, CONTINUATION without payload or end, PRIORITY, unknown types (CVE-2019-9518, 9513)
    H2_UPDATES = 10000           # WINDOW_UPDATE a second beyond 10 for each DATA frame that we sent (Envoy's ratio)
    H2_CONTROL_OUT = 65536       # bytes of unread answers to PING, SETTINGS and errors: a peer that does not read them (CVE-2019-9514)
    H2_SETTINGS_MOST = 64        # entries of one SETTINGS frame

cdef void h2_new_second(H2 *h, uint64_t second) noexcept nogil
"""The accounts begin anew."""
cdef void h2_broken(H2 *h, uint32_t code, const char *why) noexcept nogil
"""The peer has broken the protocol: the connection ends."""
cdef void h2_too_much(H2 *h, int counter, const char *why) noexcept nogil
"""A limit was passed: the connection ends."""
cdef bint h2_takes_back(H2 *h) noexcept nogil
"""The peer has reset a request before its answer: whether it does so too often."""
cdef void h2_empty(H2 *h) noexcept nogil
"""A frame that carries nothing."""
cdef void h2_stream_error(H2Stream *s, uint32_t code) noexcept nogil
"""Reset it for what the peer did, and tell its owner; s is gone if it had none."""
cdef void h2_reset_gone(H2 *h, uint32_t sid, uint32_t code) noexcept nogil
"""The same for a stream that has ended before."""
cdef bint h2_theirs(const H2 *h, uint32_t sid) noexcept nogil
"""An id that only the peer can have opened."""
cdef bint h2_idle(const H2 *h, uint32_t sid) noexcept nogil
"""An id that has not been used yet."""
