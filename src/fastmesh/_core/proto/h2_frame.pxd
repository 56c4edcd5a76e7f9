"""HTTP/2 frames (L1), RFC 9113 section 4 and 6: numbers, the frame head, and which frame may come where (one table)."""
from libc.stdint cimport uint8_t, uint32_t
from fastmesh._core.base.view cimport View

cdef enum:
    H2_FRAME_HEAD = 9
    H2_PREFACE_N = 24
    H2_MAX_FRAME = 16384         # payload that we take (SETTINGS_MAX_FRAME_SIZE's minimum), and the most that we send
    H2_WINDOW_MOST = 0x7fffffff  # RFC 9113 6.9.1
    H2_DEFAULT_WINDOW = 65535

cdef enum:  # H2Head.type
    H2_DATA = 0
    H2_HEADERS
    H2_PRIORITY
    H2_RST_STREAM
    H2_SETTINGS
    H2_PUSH_PROMISE
    H2_PING
    H2_GOAWAY
    H2_WINDOW_UPDATE
    H2_CONTINUATION
    H2_TYPES                     # must be last; greater types are ignored (RFC 9113 4.1)

cdef enum:  # H2Head.flags
    H2_F_END_STREAM = 0x1
    H2_F_ACK = 0x1
    H2_F_END_HEADERS = 0x4
    H2_F_PADDED = 0x8
    H2_F_PRIORITY = 0x20

cdef enum:  # error codes (RFC 9113 section 7)
    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR
    H2_INTERNAL_ERROR
    H2_FLOW_CONTROL_ERROR
    H2_SETTINGS_TIMEOUT
    H2_STREAM_CLOSED
    H2_FRAME_SIZE_ERROR
    H2_REFUSED_STREAM
    H2_CANCEL
    H2_COMPRESSION_ERROR
    H2_CONNECT_ERROR
    H2_ENHANCE_YOUR_CALM
    H2_INADEQUATE_SECURITY
    H2_HTTP_1_1_REQUIRED

cdef enum:  # settings (RFC 9113 6.5.2, RFC 8441)
    H2_S_HEADER_TABLE_SIZE = 1
    H2_S_ENABLE_PUSH
    H2_S_MAX_CONCURRENT_STREAMS
    H2_S_INITIAL_WINDOW_SIZE
    H2_S_MAX_FRAME_SIZE
    H2_S_MAX_HEADER_LIST_SIZE
    H2_S_ENABLE_CONNECT_PROTOCOL = 8

cdef struct H2Head:
    uint32_t length
    uint8_t type
    uint8_t flags
    uint32_t stream              # reserved bit taken off

cdef const char *h2_preface() noexcept nogil
"""H2_PREFACE_N bytes: "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"."""
cdef int h2_head_get(View *v, H2Head *f) noexcept nogil
"""FM_OK or FM_AGAIN (fewer than 9 bytes)."""
cdef int h2_head_check(const H2Head *f, bint server) noexcept nogil
"""H2_NO_ERROR, or the error of the connection that this head is, wherever it comes: length, stream id zero or not, a type that this role
may not receive."""
cdef char *h2_head_put(char *p, uint32_t length, int type, int flags, uint32_t stream) noexcept nogil
"""Nine bytes; the byte behind them."""
