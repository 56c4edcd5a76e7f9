"""Serialise HTTP/1 heads and chunks (L1): RFC 9112 sections 3, 4, 5, 7.1. Contract in h1_write.pxd. Must not know: which fields to drop."""
from libc.stdint cimport uint32_t
from libc.string cimport strlen

from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport HF_DROP, Hdr, Msg

cdef enum:
    DIGITS = 20                # of 2^64 - 1 in decimal


cdef void out_uint(Out *o, unsigned long long v) noexcept nogil:
    cdef char text[DIGITS]
    cdef int i = DIGITS
    while True:
        i -= 1
        text[i] = <char>(48 + v % 10)
        v //= 10
        if v == 0:
            break
    out_bytes(o, text + i, DIGITS - i)


cdef void out_hex(Out *o, unsigned long long v) noexcept nogil:
    cdef char text[DIGITS]
    cdef int i = DIGITS
    cdef int digit
    while True:
        i -= 1
        digit = <int>(v & 15)
        text[i] = <char>(48 + digit if digit < 10 else 87 + digit)
        v >>= 4
        if v == 0:
            break
    out_bytes(o, text + i, DIGITS - i)


cdef inline bint canonical(const Hdr *h) noexcept nogil:
    """In its buffer the field already reads `name: value`."""
    return h.value == h.name + h.name_n + 2 and h.name[h.name_n] == 58 and h.name[h.name_n + 1] == 32


cdef inline bint follows(const Hdr *h, const Hdr *next) noexcept nogil:
    """In their buffer exactly CRLF lies between the two."""
    return next.name == h.value + h.value_n + 2 and h.value[h.value_n] == 13 and h.value[h.value_n + 1] == 10


cdef void h1_write_fields(Out *o, const Msg *m) noexcept nogil:
    # Fields that lie one behind the other in the parsed buffer, as nearly all do, go out in one copy. The bytes between name, value and
    # next name are looked at, so a value that was replaced or trimmed ends the run by itself.
    cdef uint32_t i = 0
    cdef const Hdr *h
    cdef const char *start
    while i < m.nhdr:
        h = &m.hdr[i]
        i += 1
        if h.flags & HF_DROP:
            continue
        if not canonical(h):
            out_field(o, h.name, h.name_n, h.value, h.value_n)
            continue
        start = h.name
        while i < m.nhdr and not m.hdr[i].flags & HF_DROP and follows(h, &m.hdr[i]) and canonical(&m.hdr[i]):
            h = &m.hdr[i]
            i += 1
        out_bytes(o, start, h.value + h.value_n - start)
        out_bytes(o, b"\r\n", 2)


cdef void h1_write_request_line(Out *o, const Msg *m, Slice target) noexcept nogil:
    out_slice(o, m.method_name)
    out_bytes(o, b" ", 1)
    out_slice(o, target)
    out_bytes(o, b" HTTP/1.1\r\n", 11)


cdef void h1_write_status_line(Out *o, int status, Slice reason) noexcept nogil:
    cdef const char *phrase
    cdef char code[4]
    out_bytes(o, b"HTTP/1.1 ", 9)
    code[0] = <char>(48 + status // 100 % 10)
    code[1] = <char>(48 + status // 10 % 10)
    code[2] = <char>(48 + status % 10)
    code[3] = 32
    out_bytes(o, code, 4)
    if reason.n:
        out_slice(o, reason)
    else:
        phrase = h1_reason(status)
        out_bytes(o, phrase, strlen(phrase))
    out_bytes(o, b"\r\n", 2)


cdef uint32_t h1_last_chunk_size(const Hdr *trailers, int n) noexcept nogil:
    cdef uint32_t size = 5
    cdef int i
    for i in range(n):
        size += trailers[i].name_n + trailers[i].value_n + 4
    return size


cdef void h1_write_last_chunk(Out *o, const Hdr *trailers, int n) noexcept nogil:
    cdef int i
    out_bytes(o, b"0\r\n", 3)
    for i in range(n):
        out_field(o, trailers[i].name, trailers[i].name_n, trailers[i].value, trailers[i].value_n)
    out_bytes(o, b"\r\n", 2)


cdef const char *h1_reason(int status) noexcept nogil:
    if status == 100: return "Continue"
    elif status == 101: return "Switching Protocols"
    elif status == 103: return "Early Hints"
    elif status == 200: return "OK"
    elif status == 201: return "Created"
    elif status == 202: return "Accepted"
    elif status == 203: return "Non-Authoritative Information"
    elif status == 204: return "No Content"
    elif status == 205: return "Reset Content"
    elif status == 206: return "Partial Content"
    elif status == 300: return "Multiple Choices"
    elif status == 301: return "Moved Permanently"
    elif status == 302: return "Found"
    elif status == 303: return "See Other"
    elif status == 304: return "Not Modified"
    elif status == 305: return "Use Proxy"
    elif status == 307: return "Temporary Redirect"
    elif status == 308: return "Permanent Redirect"
    elif status == 400: return "Bad Request"
    elif status == 401: return "Unauthorized"
    elif status == 402: return "Payment Required"
    elif status == 403: return "Forbidden"
    elif status == 404: return "Not Found"
    elif status == 405: return "Method Not Allowed"
    elif status == 406: return "Not Acceptable"
    elif status == 407: return "Proxy Authentication Required"
    elif status == 408: return "Request Timeout"
    elif status == 409: return "Conflict"
    elif status == 410: return "Gone"
    elif status == 411: return "Length Required"
    elif status == 412: return "Precondition Failed"
    elif status == 413: return "Content Too Large"
    elif status == 414: return "URI Too Long"
    elif status == 415: return "Unsupported Media Type"
    elif status == 416: return "Range Not Satisfiable"
    elif status == 417: return "Expectation Failed"
    elif status == 421: return "Misdirected Request"
    elif status == 422: return "Unprocessable Content"
    elif status == 425: return "Too Early"
    elif status == 426: return "Upgrade Required"
    elif status == 428: return "Precondition Required"
    elif status == 429: return "Too Many Requests"
    elif status == 431: return "Request Header Fields Too Large"
    elif status == 451: return "Unavailable For Legal Reasons"
    elif status == 500: return "Internal Server Error"
    elif status == 501: return "Not Implemented"
    elif status == 502: return "Bad Gateway"
    elif status == 503: return "Service Unavailable"
    elif status == 504: return "Gateway Timeout"
    elif status == 505: return "HTTP Version Not Supported"
    elif status == 511: return "Network Authentication Required"
    else: return ""
