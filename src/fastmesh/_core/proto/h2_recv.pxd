"""HTTP/2 frames in (L1), RFC 9113: parses what came, keeps the state, tells events, and is the place of every limit on what a peer may do.

Each limit has a counter (ST_H2_*) and ends the connection with ENHANCE_YOUR_CALM unless it says else; rates are per second of the caller's clock.
"""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.proto.h2_stream cimport H2

cdef enum:
    H2_MAX_STREAMS = 1024        # concurrent, per connection (Envoy); more: REFUSED_STREAM
    H2_STREAM_WINDOW = 262144    # what a peer may send on a stream before it is read by the other side
    H2_CONN_WINDOW = 16777216    # ... on all streams of a connection: 64 stalled ones do not stop the others
    H2_RESETS_IN = 200           # RST_STREAM a second before the answer was begun: rapid reset, CVE-2023-44487
    H2_RESETS_OUT = 200          # resets a second that the peer provokes: MadeYouReset, CVE-2025-8671
    H2_CONTINUATIONS = 32        # frames of one header block: CONTINUATION flood, CVE-2024-27316; its bytes: MSG_MAX_HEAD
    H2_PINGS = 100               # a second, CVE-2019-9512
    H2_SETTINGS_RATE = 100       # a second, CVE-2019-9515
    H2_EMPTY_FRAMES = 1000       # a second: DATA, HEADERS, CONTINUATION without payload or end, PRIORITY, unknown types (CVE-2019-9518, 9513)
    H2_UPDATES = 10000           # WINDOW_UPDATE a second beyond 10 for each DATA frame that we sent (Envoy's ratio)
    H2_CONTROL_OUT = 65536       # bytes of unread answers to PING, SETTINGS and errors: a peer that does not read them (CVE-2019-9514)
    H2_SETTINGS_MOST = 64        # entries of one SETTINGS frame

cdef int h2_recv(H2 *h, const char *p, uint32_t n, uint64_t now_ms) noexcept nogil
"""Take what is complete of p[0:n]: bytes used (DATA is taken as it comes, other frames whole, so at most 9 + H2_MAX_FRAME bytes are ever left
over), or FM_EH2: GOAWAY with h.error has been queued, nothing more is read, the caller flushes and closes."""
