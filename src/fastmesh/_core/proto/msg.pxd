"""Msg (L1): one parsed request or response head; the form that every protocol version shares.

All slices are borrowed from the buffer that was parsed: valid until that buffer changes. A Msg allocates nothing.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from fastmesh._core.base.view cimport Slice

cdef enum:
    MSG_MAX_HEADERS = 100      # Envoy's max_headers_count; above: 431
    MSG_MAX_HEAD = 61440       # 60 KiB, Envoy's max_request_headers_kb; above: 431
    MSG_CAP_HEADERS = 160      # room for the fields that policy adds
    MSG_MAX_TARGET = 16384     # longer request target: 414
    MSG_MAX_TRAILERS = 8192    # bytes of a trailer section
    MSG_MAX_CHUNK_LINE = 256   # bytes of a chunk-size line with its extensions

cdef enum:  # Msg.method
    M_OTHER = 0                # any other token; Msg.method_name has it
    M_GET
    M_HEAD
    M_POST
    M_PUT
    M_DELETE
    M_OPTIONS
    M_TRACE
    M_PATCH
    M_CONNECT

cdef enum:  # Hdr.id: header names that some code asks for; H_NONE is any other
    H_NONE = 0
    H_HOST
    H_CONTENT_LENGTH
    H_TRANSFER_ENCODING
    H_CONNECTION
    H_KEEP_ALIVE
    H_PROXY_CONNECTION
    H_TE
    H_TRAILER
    H_UPGRADE
    H_EXPECT
    H_PROXY_AUTHORIZATION
    H_PROXY_AUTHENTICATE
    H_X_REQUEST_ID
    H_X_FORWARDED_FOR
    H_X_FORWARDED_PROTO
    H_X_FORWARDED_CLIENT_CERT
    H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS
    H_TRACEPARENT
    H_TRACESTATE
    H_B3
    H_X_B3_TRACEID
    H_X_B3_SPANID
    H_X_B3_PARENTSPANID
    H_X_B3_SAMPLED
    H_X_B3_FLAGS
    H_USER_AGENT
    H_COOKIE
    H_AUTHORIZATION
    H_SERVER
    H_DATE
    H_LOCATION
    H_HTTP2_SETTINGS
    H_CONTENT_TYPE
    H_SET_COOKIE
    H_GRPC_TIMEOUT
    H_GRPC_STATUS
    H_GRPC_MESSAGE
    H_SEC_WEBSOCKET_KEY
    H_SEC_WEBSOCKET_ACCEPT
    H_SEC_WEBSOCKET_VERSION
    H_X_FASTMESH_H1            # on the mesh link only: what HTTP/2 does not say of an HTTP/1 head (proto/h2_case)
    H_X_ENVOY_ATTEMPT_COUNT
    H_X_FASTMESH_RETRY         # "no": retries were given up further down (policy/giveup)
    H_N                        # must be last

cdef enum:  # Hdr.id of HTTP/2's pseudo fields, while a head is decoded; never in a Msg
    HP_AUTHORITY = 128
    HP_METHOD
    HP_PATH
    HP_SCHEME
    HP_STATUS
    HP_PROTOCOL

cdef enum:  # Hdr.flags
    HF_DROP = 1                # hop-by-hop or removed by policy: writers leave it out
    HF_NEVER = 2               # came as a never-indexed literal (RFC 7541 6.2.3) and leaves as one

cdef struct Hdr:
    const char *name
    const char *value          # without surrounding white space
    uint32_t value_n
    uint16_t name_n
    uint8_t id                 # H_*
    uint8_t flags              # HF_*

cdef enum:  # Msg.flags, set by the head parser from the head alone
    MF_RESPONSE = 1
    MF_ABSOLUTE = 2            # request target was in absolute form
    MF_ASTERISK = 4            # OPTIONS *
    MF_CLOSE = 8               # Connection: close, or HTTP/1.0 without keep-alive
    MF_KEEPALIVE = 16          # Connection: keep-alive was said
    MF_UPGRADE = 32            # Connection: upgrade and an Upgrade field
    MF_EXPECT_100 = 64
    MF_CHUNKED = 128           # Transfer-Encoding: chunked, and nothing else
    MF_TE_TRAILERS = 256       # TE: trailers was said
    MF_HTTPS = 512             # absolute form with https; :scheme https
    MF_PROTOCOL = 1024         # extended CONNECT (RFC 8441): Msg.protocol is set
    MF_NEVER = 2048            # one of :method, :scheme, :path, :protocol, :status came as a never-indexed literal: they all leave as such

cdef enum:  # Msg.body: how the body's end is found (RFC 9112 section 6.3)
    BODY_NONE = 0
    BODY_LENGTH                # Msg.content_length bytes (> 0)
    BODY_CHUNKED
    BODY_CLOSE                 # a response that ends with its connection
    BODY_TUNNEL                # 101 Switching Protocols, 2xx to CONNECT

cdef struct Msg:
    uint32_t head_n            # bytes of the head, its empty line included
    uint16_t flags             # MF_*
    uint8_t method             # M_*, requests
    uint8_t minor              # HTTP/1.minor: 0 or 1; 2: HTTP/2
    uint16_t status            # responses
    uint8_t body               # BODY_*, set by h1_body_request / h1_body_response
    uint8_t reserved
    int64_t content_length     # -1: none
    Slice method_name
    Slice target               # the request target as sent
    Slice path                 # without query; "*" for asterisk-form; never empty ("/" for an absolute form without path)
    Slice query                # without '?'
    Slice host                 # authority without userinfo, port included: from an absolute target, else Host
    Slice reason               # responses
    Slice protocol             # extended CONNECT: what is to be spoken, e.g. "websocket"
    uint32_t nhdr
    Hdr hdr[MSG_CAP_HEADERS]

cdef const Hdr *msg_find(const Msg *m, int hid) noexcept nogil
"""The first field with this id that is not dropped, or NULL."""

cdef const Hdr *msg_find_name(const Msg *m, const char *name, uint32_t n) noexcept nogil
"""The first field with this name (any case) that is not dropped, or NULL."""

cdef int hdr_id(const char *name, uint32_t n) noexcept nogil
"""H_* of a header name, any case; H_NONE when unknown."""

cdef int hdr_id_loose(const char *name, uint32_t n) noexcept nogil
"""The same with '_' taken for '-', as CGI and WSGI applications do: they cannot tell the two names apart."""

cdef int method_id(const char *name, uint32_t n) noexcept nogil
"""M_* of a method token (case-sensitive, RFC 9110 9.1)."""

cdef void msg_reset(Msg *m, int flags) noexcept nogil
"""An empty head: all but the field table, which nhdr guards."""

cdef uint32_t msg_kept_size(const Msg *m) noexcept nogil
"""Bytes that msg_keep needs."""

cdef uint32_t msg_keep(const Msg *m, char *p) noexcept nogil
"""A head in a form that outlives the buffer it was parsed from: dropped fields left out. Bytes written (msg_kept_size)."""

cdef void msg_load(Msg *m, const char *p) noexcept nogil
"""What msg_keep wrote at p (8-byte aligned): m's slices point into p."""
