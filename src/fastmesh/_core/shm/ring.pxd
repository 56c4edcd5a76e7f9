"""A single-writer, single-reader byte ring of records (L1): access log. Full: the record is dropped and counted, never waited for."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Ring:                # 128 bytes of header, then RING_BYTES of data
    uint64_t head                # bytes written ever (writer; release)
    uint8_t pad0[56]
    uint64_t tail                # bytes read ever (reader; release)
    uint8_t pad1[56]

cdef enum:
    LOG_STRS = 11                # strings behind a LogRec, in this order: method, path (with query), authority, user_agent, x_forwarded_for,
                                 # request_id, upstream_host, upstream_cluster, route_name, details (RESPONSE_CODE_DETAILS), peer (SPIFFE ID)

cdef enum:  # LogRec.minor
    LOG_TCP = 255

cdef struct LogRec:              # 128 bytes, then LOG_STRS strings without separators, padded to 8
    uint32_t bytes               # of the whole record, padding included
    uint16_t status
    uint8_t minor                # HTTP/1.minor; 2: HTTP/2; LOG_TCP: a TCP session, whose authority is the name in its ClientHello
    uint8_t direction            # DIR_*
    uint32_t flags               # RF_*
    uint32_t attempts
    uint64_t start_wall_ns
    uint64_t duration_us
    uint64_t upstream_us         # X-ENVOY-UPSTREAM-SERVICE-TIME
    uint64_t hop_us
    uint64_t rx_bytes            # request body
    uint64_t tx_bytes            # response body
    uint16_t str_n[11]           # lengths, each cut to 1024
    uint16_t peer_port
    uint8_t peer_family
    uint8_t security             # SEC_*
    uint8_t grpc                 # gRPC status + 1; 0: none was seen
    uint8_t authz                # 1: audited; 2, 4: policies that are only tried would have let it pass, refused it
    uint8_t reserved0[4]
    uint8_t peer_addr[16]
    uint8_t trace_id[16]

cdef int ring_put(Ring *r, const void *rec, uint32_t n) noexcept nogil
"""Append n bytes (a multiple of 8, at most 16 KiB); FM_OK, or FM_EFULL."""

cdef enum:
    RING_MAX_RECORD = 16384      # bytes of one record

cdef int ring_get(Ring *r, char *out, uint32_t cap) noexcept nogil
"""The reader's side: the next record into out (cap at least RING_MAX_RECORD); its size, 0 when empty, FM_EINTERNAL when what stands
there is no record (the ring is skipped to its head)."""

cdef bint ring_empty(const Ring *r) noexcept nogil
