"""HPACK (L1): the decoder. See hpack.pxd; the encoder is in hpack_enc.pyx."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from fastmesh._core.base.buf cimport BufPool
from fastmesh._core.base.err cimport FM_EHEAD, FM_EHPACK, FM_ENOMEM, FM_OK
from fastmesh._core.base.view cimport Slice, View, slice_of, view_left, view_u8
from fastmesh._core.proto.gen_hpack cimport fm_hpack_static, fm_hpack_static_t
from fastmesh._core.proto.hpack_table cimport HPACK_ENTRY, HPACK_TABLE_MOST, HpackEntry, table_add, table_end, table_get, table_limit
from fastmesh._core.proto.huffman cimport huffman_decode
from fastmesh._core.proto.msg cimport HF_NEVER, HP_PROTOCOL, Hdr, hdr_id

cdef enum:
    UPDATES_MOST = 2             # RFC 7541 4.2: the smallest and the last size, no more
    INT_SHIFT_MOST = 21          # continuation bytes: 4, so that no sum passes 32 bits


cdef void hpack_dec_init(HpackDec *d, uint32_t limit) noexcept nogil:
    memset(d, 0, sizeof(HpackDec))
    d.limit = limit if limit < HPACK_TABLE_MOST else HPACK_TABLE_MOST
    d.t.max = d.limit


cdef void hpack_dec_end(HpackDec *d, BufPool *bufs) noexcept nogil:
    table_end(&d.t, bufs)


cdef void hpack_block_begin(HpackDec *d) noexcept nogil:
    d.updates = 0
    d.fields = 0


cdef int get_int(View *v, uint8_t first, uint32_t mask, uint32_t *out) noexcept nogil:
    # RFC 7541 5.1; longer than any integer that can be right is refused
    cdef uint32_t n = first & mask
    cdef uint32_t shift = 0
    cdef uint8_t b
    if n == mask:
        while True:
            b = view_u8(v)
            if v.bad or shift > INT_SHIFT_MOST:
                return FM_EHPACK
            n += <uint32_t>(b & 0x7f) << shift
            shift += 7
            if not b & 0x80:
                break
    out[0] = n
    return FM_OK


cdef int get_string(View *v, HpackArena *a, Slice *out) noexcept nogil:
    # FM_OK, FM_EHPACK, or FM_EHEAD: no room in the arena
    cdef uint8_t first = view_u8(v)
    cdef uint32_t n = 0
    cdef int made
    if v.bad or get_int(v, first, 0x7f, &n) != FM_OK or n > HPACK_STRING_MOST or n > view_left(v):
        return FM_EHPACK
    if first & 0x80:
        made = huffman_decode(<const char *>v.p, n, a.p, <uint32_t>(a.end - a.p))
        if made < 0:
            return made
        out[0] = slice_of(a.p, <uint32_t>made)
        a.p += made
    else:
        out[0] = slice_of(<const char *>v.p, n)
    v.p += n
    return FM_OK


cdef int copy_out(HpackArena *a, const char *p, uint32_t n, Slice *out) noexcept nogil:
    # what lies in the table may be gone at the next field
    if a.end - a.p < <int>n:
        return FM_EHEAD
    memcpy(a.p, p, n)
    out[0] = slice_of(a.p, n)
    a.p += n
    return FM_OK


cdef int named_by(const HpackDec *d, uint32_t index, HpackEntry *e) noexcept nogil:
    cdef const fm_hpack_static_t *s
    if index == 0:
        return FM_EHPACK
    if index <= HPACK_STATIC:
        s = &fm_hpack_static[index]
        e.name = s.name
        e.name_n = s.name_n
        e.value = s.value
        e.value_n = s.value_n
        e.id = s.id
        return FM_OK
    return FM_OK if table_get(&d.t, index - HPACK_STATIC - 1, e) else FM_EHPACK


cdef void emit(HpackArena *a, Hdr *out, Slice name, Slice value, int hid, int flags) noexcept nogil:
    out.name = name.p
    out.name_n = <uint16_t>name.n
    out.value = value.p
    out.value_n = value.n
    out.id = <uint8_t>hid
    out.flags = <uint8_t>flags
    a.list_n += name.n + value.n + HPACK_ENTRY
    if a.list_n > a.list_most or name.n > 0xffff:
        a.over = 1


cdef int indexed(HpackDec *d, View *v, uint8_t first, HpackArena *a, Hdr *out) noexcept nogil:
    cdef HpackEntry e
    cdef Slice name, value
    cdef uint32_t index = 0
    if get_int(v, first, 0x7f, &index) != FM_OK or named_by(d, index, &e) != FM_OK:
        return FM_EHPACK
    name = slice_of(e.name, e.name_n)
    value = slice_of(e.value, e.value_n)
    if index > HPACK_STATIC and not a.over and (
            copy_out(a, e.name, e.name_n, &name) != FM_OK or copy_out(a, e.value, e.value_n, &value) != FM_OK):
        return FM_EHEAD
    emit(a, out, name, value, e.id, 0)
    return 1


cdef int literal(HpackDec *d, View *v, uint8_t first, uint32_t mask, BufPool *bufs, HpackArena *a, Hdr *out) noexcept nogil:
    cdef HpackEntry e
    cdef Slice name, value
    cdef uint32_t index = 0
    cdef int hid, rc
    if get_int(v, first, mask, &index) != FM_OK:
        return FM_EHPACK
    if index:
        if named_by(d, index, &e) != FM_OK:
            return FM_EHPACK
        name = slice_of(e.name, e.name_n)
        hid = e.id
        if index > HPACK_STATIC and not a.over and copy_out(a, e.name, e.name_n, &name) != FM_OK:
            return FM_EHEAD
    else:
        rc = get_string(v, a, &name)
        if rc != FM_OK:
            return rc
        hid = id_of(name)
    rc = get_string(v, a, &value)
    if rc != FM_OK:
        return rc
    if mask == 0x3f and table_add(&d.t, bufs, name.p, name.n, value.p, value.n, hid) < 0:
        return FM_ENOMEM
    emit(a, out, name, value, hid, HF_NEVER if mask == 0x0f and first & 0x10 else 0)
    return 1


cdef int id_of(Slice name) noexcept nogil:
    cdef uint32_t i
    if name.n == 0 or name.p[0] != 58:  # ':'
        return hdr_id(name.p, name.n)
    for i in range(1, 15):       # the pseudo fields of the static table; :protocol is not in it
        if fm_hpack_static[i].name_n == name.n and memcmp(fm_hpack_static[i].name, name.p, name.n) == 0:
            return fm_hpack_static[i].id
    return HP_PROTOCOL if name.n == 9 and memcmp(name.p, b":protocol", 9) == 0 else 0


cdef int field(HpackDec *d, View *v, BufPool *bufs, HpackArena *a, Hdr *out) noexcept nogil:
    cdef uint8_t first = view_u8(v)
    if first & 0x80:
        return indexed(d, v, first, a, out)
    if first & 0x40:
        return literal(d, v, first, 0x3f, bufs, a, out)
    return literal(d, v, first, 0x0f, bufs, a, out)


cdef int size_update(HpackDec *d, View *v) noexcept nogil:
    cdef uint32_t most = 0
    d.updates += 1
    if d.fields or d.updates > UPDATES_MOST or get_int(v, view_u8(v), 0x1f, &most) != FM_OK or most > d.limit:
        return FM_EHPACK
    table_limit(&d.t, most)
    return FM_OK


cdef int hpack_next(HpackDec *d, View *v, BufPool *bufs, HpackArena *a, Hdr *out) noexcept nogil:
    cdef View again
    cdef int rc
    while view_left(v) and v.p[0] & 0xe0 == 0x20:
        if size_update(d, v) != FM_OK:
            return FM_EHPACK
    if view_left(v) == 0:
        return 0
    d.fields += 1
    if a.over:
        a.p = a.begin            # nothing in it is used any more
        rc = field(d, v, bufs, a, out)
    else:
        again = v[0]
        rc = field(d, v, bufs, a, out)
        if rc == FM_EHEAD:
            a.over = 1
            a.p = a.begin
            v[0] = again
            rc = field(d, v, bufs, a, out)
    return FM_EHPACK if v.bad or rc == FM_EHEAD else rc
