"""What a peer may do on an HTTP/2 connection (L1). See h2_limits.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.proto.h2_frame cimport (
    H2_ENHANCE_YOUR_CALM, H2_FLOW_CONTROL_ERROR, H2_PROTOCOL_ERROR)
from fastmesh._core.proto.h2_send cimport h2_fail, h2_put_rst, h2_reset
from fastmesh._core.proto.h2_stream cimport (
    HF2_LINK, HF2_SERVER, H2N_EMPTY_FRAMES, H2N_FLOW, H2N_MADE_RESET, H2N_MALFORMED, H2N_PROTOCOL, H2N_RAPID_RESET, H2, H2Stream, h2_count, h2_stream_over)


cdef void h2_broken(H2 *h, uint32_t code, const char *why) noexcept nogil:
    h2_count(h, H2N_FLOW if code == H2_FLOW_CONTROL_ERROR else H2N_PROTOCOL)
    h2_fail(h, code, why)


cdef void h2_too_much(H2 *h, int counter, const char *why) noexcept nogil:
    h2_count(h, counter)
    h2_fail(h, H2_ENHANCE_YOUR_CALM, why)


cdef void provoked(H2 *h) noexcept nogil:
    cdef uint32_t most = H2_RESETS_OUT if h.flags & HF2_SERVER and not h.flags & HF2_LINK else H2_RESETS_OUT * H2_RESETS_TRUST
    h.resets_out += 1
    if h.resets_out > most:
        h2_too_much(h, H2N_MADE_RESET, b"too many resets provoked")


cdef bint h2_takes_back(H2 *h) noexcept nogil:
    cdef uint32_t most = H2_RESETS_IN * H2_RESETS_TRUST if h.flags & HF2_LINK else H2_RESETS_IN
    h.resets_in += 1
    # who opens many and takes back most of them
    if h.resets_in <= most or h.resets_in * 2 <= h.opened:
        return False
    h2_too_much(h, H2N_RAPID_RESET, b"too many requests taken back")
    return True


cdef void h2_stream_error(H2Stream *s, uint32_t code) noexcept nogil:
    cdef H2 *h = s.h
    if code == H2_FLOW_CONTROL_ERROR:
        h2_count(h, H2N_FLOW)
    elif code == H2_PROTOCOL_ERROR:
        h2_count(h, H2N_MALFORMED)
    h2_reset(s, code)
    h2_stream_over(s, code, False)
    provoked(h)


cdef void h2_reset_gone(H2 *h, uint32_t sid, uint32_t code) noexcept nogil:
    # a frame on a stream that has ended
    h2_put_rst(h, sid, code)
    provoked(h)


cdef void h2_empty(H2 *h) noexcept nogil:
    h.empties += 1
    if h.empties > H2_EMPTY_FRAMES:
        h2_too_much(h, H2N_EMPTY_FRAMES, b"too many frames that carry nothing")


cdef bint h2_theirs(const H2 *h, uint32_t sid) noexcept nogil:
    return (sid & 1) == (h.flags & HF2_SERVER)


cdef bint h2_idle(const H2 *h, uint32_t sid) noexcept nogil:
    if h2_theirs(h, sid):
        return sid > h.last_remote
    return h.next_local != 0 and sid >= h.next_local


cdef void h2_new_second(H2 *h, uint64_t second) noexcept nogil:
    h.second = second
    h.resets_in = 0
    h.resets_out = 0
    h.pings = 0
    h.settings_n = 0
    h.empties = 0
    h.updates = 0
    h.data_sent = 0
    h.opened = 0
