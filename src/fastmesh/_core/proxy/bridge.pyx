"""WebSocket in either version (L3). See bridge.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from fastmesh._core.base.err cimport FM_EHEAD, FM_EMETHOD, FM_OK
from fastmesh._core.base.openssl cimport SHA1
from fastmesh._core.base.view cimport slice_of
from fastmesh._core.policy.lb cimport rng_next
from fastmesh._core.proto.lists cimport slice_is
from fastmesh._core.proto.msg cimport (
    BODY_NONE, BODY_TUNNEL, H_SEC_WEBSOCKET_ACCEPT, H_SEC_WEBSOCKET_KEY, H_UPGRADE, HF_DROP, M_CONNECT, M_GET, MF_PROTOCOL, MF_UPGRADE, Hdr,
    Msg, msg_find)
from fastmesh._core.proxy.ctx cimport ACCEPT_BYTES, WS_KEY_BYTES, Exchange
from fastmesh._core.proxy.forward cimport msg_add

cdef const char *ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef const char *GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


cdef void base64(const uint8_t *p, uint32_t n, char *out) noexcept nogil:
    cdef uint32_t v, left
    while n:
        left = n if n < 3 else 3
        v = <uint32_t>p[0] << 16
        if left > 1:
            v |= <uint32_t>p[1] << 8
        if left > 2:
            v |= p[2]
        out[0] = ALPHABET[v >> 18]
        out[1] = ALPHABET[v >> 12 & 63]
        out[2] = ALPHABET[v >> 6 & 63] if left > 1 else 61  # '='
        out[3] = ALPHABET[v & 63] if left > 2 else 61
        p += left
        n -= left
        out += 4


cdef int bridge_from_connect(Exchange *ex, Msg *m) noexcept nogil:
    cdef uint64_t dice[2]
    if not slice_is(m.protocol, "websocket", 9):
        return FM_EMETHOD
    m.method = M_GET
    m.method_name = slice_of(b"GET", 3)
    m.flags = <uint16_t>((m.flags & ~<uint32_t>MF_PROTOCOL) | MF_UPGRADE)
    m.body = BODY_NONE
    m.protocol = slice_of(NULL, 0)
    if msg_add(m, b"upgrade", 7, b"websocket", 9, H_UPGRADE) != FM_OK:
        return FM_EHEAD
    if msg_find(m, H_SEC_WEBSOCKET_KEY) != NULL:
        return FM_OK
    dice[0] = rng_next(&ex.w.rng)  # RFC 6455 10.3: it has only to be new, it keeps no secret
    dice[1] = rng_next(&ex.w.rng)
    base64(<const uint8_t *>dice, 16, ex.ws_key)
    return msg_add(m, b"sec-websocket-key", 17, ex.ws_key, WS_KEY_BYTES, H_SEC_WEBSOCKET_KEY)


cdef int bridge_to_connect(Exchange *ex, Msg *m) noexcept nogil:
    cdef const Hdr *upgrade = msg_find(m, H_UPGRADE)
    cdef const Hdr *key = msg_find(m, H_SEC_WEBSOCKET_KEY)
    cdef uint8_t text[WS_KEY_BYTES + 36]
    cdef uint8_t digest[20]
    if upgrade == NULL or not slice_is(slice_of(upgrade.value, upgrade.value_n), "websocket", 9):
        return FM_EMETHOD        # RFC 8441 is for protocols that are registered for it
    if key == NULL or key.value_n != WS_KEY_BYTES:
        return FM_EMETHOD
    memcpy(text, key.value, WS_KEY_BYTES)
    memcpy(text + WS_KEY_BYTES, GUID, 36)
    SHA1(text, WS_KEY_BYTES + 36, digest)
    base64(digest, 20, ex.accept)
    m.method = M_CONNECT
    m.method_name = slice_of(b"CONNECT", 7)
    m.flags |= MF_PROTOCOL
    m.protocol = slice_of(b"websocket", 9)
    return FM_OK


cdef int bridge_from_accepted(Exchange *ex, Msg *m) noexcept nogil:
    m.status = 101
    m.reason = slice_of(b"Switching Protocols", 19)
    m.flags |= MF_UPGRADE
    if msg_add(m, b"upgrade", 7, b"websocket", 9, H_UPGRADE) != FM_OK:
        return FM_EHEAD
    if msg_find(m, H_SEC_WEBSOCKET_ACCEPT) != NULL:
        return FM_OK
    return msg_add(m, b"sec-websocket-accept", 20, ex.accept, ACCEPT_BYTES, H_SEC_WEBSOCKET_ACCEPT)


cdef void bridge_to_accepted(Msg *m) noexcept nogil:
    cdef uint32_t i
    m.status = 200
    m.body = BODY_TUNNEL
    for i in range(m.nhdr):
        if m.hdr[i].id == H_SEC_WEBSOCKET_ACCEPT:
            m.hdr[i].flags |= HF_DROP  # the next hop's client gets one that fits its own key
