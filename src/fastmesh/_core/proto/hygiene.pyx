"""Hop-by-hop hygiene (L1): RFC 9110 section 7.6.1, RFC 9112 9.6. Contract in hygiene.pxd. Marks fields HF_DROP, writes and moves nothing."""
from libc.stdint cimport uint32_t
from libc.string cimport memchr

from fastmesh._core.base.err cimport FM_EBAD, FM_OK
from fastmesh._core.base.view cimport Slice, slice_ieq, slice_of
from fastmesh._core.proto.lists cimport list_next, slice_is
from fastmesh._core.proto.msg cimport (
    HF_DROP, H_AUTHORIZATION, H_CONNECTION, H_CONTENT_LENGTH, H_CONTENT_TYPE, H_COOKIE, H_EXPECT, H_HOST, H_HTTP2_SETTINGS,
    H_KEEP_ALIVE, H_LOCATION, H_NONE, H_PROXY_AUTHENTICATE, H_PROXY_AUTHORIZATION, H_PROXY_CONNECTION, H_SET_COOKIE, H_TE,
    H_TRAILER, H_TRANSFER_ENCODING, H_UPGRADE, H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, H_X_FASTMESH_H1, H_X_FORWARDED_CLIENT_CERT,
    H_X_FORWARDED_FOR, H_X_FORWARDED_PROTO, MF_EXPECT_100, MF_RESPONSE, MF_UPGRADE, Hdr, Msg, hdr_id, hdr_id_loose)

cdef enum:
    MAX_OPTIONS = 32           # connection options of one message: each is compared with each field, more is an attack on our time


cdef bint must_stay(Slice name) noexcept nogil:
    """A field that no client may have taken away on the next hop's behalf: framing, routing, identity, the addresses we vouch for."""
    cdef int k = hdr_id(name.p, name.n)
    if (k == H_HOST or k == H_CONTENT_LENGTH or k == H_TRANSFER_ENCODING or k == H_AUTHORIZATION or k == H_COOKIE or k == H_SET_COOKIE
            or k == H_X_FORWARDED_FOR or k == H_X_FORWARDED_PROTO or k == H_X_FORWARDED_CLIENT_CERT):
        return True
    if name.n >= 12 and slice_is(slice_of(name.p, 12), "x-forwarded-", 12):
        return True
    return slice_is(name, "forwarded", 9)


cdef void drop_named(Msg *m, Slice name) noexcept nogil:
    cdef uint32_t i
    for i in range(m.nhdr):
        if m.hdr[i].name_n == name.n and slice_ieq(slice_of(m.hdr[i].name, m.hdr[i].name_n), name):
            m.hdr[i].flags |= HF_DROP


cdef int drop_connection_options(Msg *m, const Hdr *h, int *options) noexcept nogil:
    cdef Slice rest = slice_of(h.value, h.value_n)
    cdef Slice item
    while list_next(&rest, &item):
        if item.n == 0:
            continue
        options[0] += 1
        if options[0] > MAX_OPTIONS or must_stay(item):
            return FM_EBAD
        # `upgrade` names the Upgrade field, whose fate is decided apart
        if not (slice_is(item, "close", 5) or slice_is(item, "keep-alive", 10) or slice_is(item, "upgrade", 7)):
            drop_named(m, item)
    return FM_OK


cdef int hygiene(Msg *m, bint keep_upgrade, int proxy_field) noexcept nogil:
    cdef bint upgrade = keep_upgrade and m.flags & MF_UPGRADE
    cdef int options = 0
    cdef uint32_t i
    cdef Hdr *h
    cdef int k
    for i in range(m.nhdr):
        h = &m.hdr[i]
        k = h.id
        if k == H_NONE:
            # `X_Forwarded_For`: applications take it for the field with dashes, which we clean or vouch for
            if memchr(h.name, 95, h.name_n) != NULL and hdr_id_loose(h.name, h.name_n) != H_NONE:  # '_'
                h.flags |= HF_DROP
        elif k == H_CONNECTION:
            h.flags |= HF_DROP
            if drop_connection_options(m, h, &options) != FM_OK:
                return FM_EBAD
        elif (k == H_KEEP_ALIVE or k == H_PROXY_CONNECTION or k == H_TE or k == H_TRANSFER_ENCODING or k == H_HTTP2_SETTINGS or k == H_X_FASTMESH_H1
                or k == proxy_field or (k == H_UPGRADE and not upgrade)
                or (k == H_EXPECT and not m.flags & (MF_EXPECT_100 | MF_RESPONSE))):
            # an expectation without the flag was ignored (HTTP/1.0): the next hop would take it for ours
            h.flags |= HF_DROP
    return FM_OK


cdef int hygiene_request(Msg *m, bint keep_upgrade) noexcept nogil:
    return hygiene(m, keep_upgrade, H_PROXY_AUTHORIZATION)


cdef int hygiene_response(Msg *m, bint keep_upgrade) noexcept nogil:
    cdef uint32_t i
    cdef int rc = hygiene(m, keep_upgrade, H_PROXY_AUTHENTICATE)
    if m.status < 200 or m.status == 204:
        # RFC 9110 8.6: no Content-Length there; the head parser lets only 0 in
        for i in range(m.nhdr):
            if m.hdr[i].id == H_CONTENT_LENGTH:
                m.hdr[i].flags |= HF_DROP
    return rc


cdef bint named(const Hdr *h, const char *lower, uint32_t n) noexcept nogil:
    return slice_is(slice_of(h.name, h.name_n), lower, n)


cdef bint trailer_forbidden(const Hdr *h) noexcept nogil:
    """RFC 9110 6.5.1: what frames, routes, authenticates, or says how to read the content; and what a hop vouches for."""
    cdef int k = hdr_id_loose(h.name, h.name_n)
    if k != H_NONE:
        return (k == H_HOST or k == H_CONTENT_LENGTH or k == H_TRANSFER_ENCODING or k == H_CONNECTION or k == H_KEEP_ALIVE
                or k == H_PROXY_CONNECTION or k == H_TE or k == H_TRAILER or k == H_UPGRADE or k == H_EXPECT
                or k == H_AUTHORIZATION or k == H_PROXY_AUTHORIZATION or k == H_PROXY_AUTHENTICATE or k == H_COOKIE
                or k == H_HTTP2_SETTINGS or k == H_LOCATION or k == H_X_FORWARDED_FOR or k == H_X_FORWARDED_PROTO
                or k == H_X_FORWARDED_CLIENT_CERT or k == H_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS or k == H_SET_COOKIE
                or k == H_CONTENT_TYPE or k == H_X_FASTMESH_H1)
    return (named(h, "www-authenticate", 16) or named(h, "content-encoding", 16) or named(h, "content-range", 13) or named(h, "cache-control", 13)
            or named(h, "max-forwards", 12) or named(h, "range", 5) or named(h, "forwarded", 9)
            or named(h, "x-forwarded-host", 16) or named(h, "pragma", 6))
