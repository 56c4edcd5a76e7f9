"""Host and authority grammar (L1). Must not know: where the value comes from or what it is matched against."""
from libc.stdint cimport uint32_t

from fastmesh._core.base.err cimport FM_EHOST, FM_OK
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.gen_tables cimport CC_HEX, CC_REGNAME, fm_cc

cdef enum:
    PORT_DIGITS = 5
    PORT_MAX = 65535
    V6_GROUPS = 8
    NAME_MAX = 255             # RFC 1035 2.3.4: a longer name resolves nowhere


cdef bint is_ipv4(const char *p, uint32_t n) noexcept nogil:
    """dec-octet "." dec-octet "." dec-octet "." dec-octet; no leading zeros (they read as octal elsewhere)."""
    cdef uint32_t i = 0, start, octet, parts = 0
    while parts < 4:
        start = i
        octet = 0
        while i < n and i - start < 3 and 48 <= p[i] <= 57:
            octet = octet * 10 + <uint32_t>(p[i] - 48)
            i += 1
        if i == start or octet > 255 or (p[start] == 48 and i - start > 1):
            return False
        parts += 1
        if parts < 4:
            if i >= n or p[i] != 46:  # '.'
                return False
            i += 1
    return i == n


cdef bint is_ipv6(const char *p, uint32_t n) noexcept nogil:
    """IPv6address of RFC 3986 3.2.2 (without brackets or zone)."""
    cdef uint32_t i = 0, start, groups = 0
    cdef bint gap = False
    if n >= 2 and p[0] == 58 and p[1] == 58:  # '::'
        gap = True
        i = 2
    while i < n:
        start = i
        while i < n and i - start < 4 and fm_cc[<unsigned char>p[i]] & CC_HEX:
            i += 1
        if i < n and p[i] == 46:  # the last 32 bits as IPv4
            if not is_ipv4(p + start, n - start):
                return False
            groups += 2
            i = n
            break
        if i == start:
            return False
        groups += 1
        if groups > V6_GROUPS:
            return False
        if i == n:
            break
        if p[i] != 58:  # ':'
            return False
        i += 1
        if i < n and p[i] == 58:
            if gap:
                return False
            gap = True
            i += 1
        elif i == n:
            return False
    return groups < V6_GROUPS if gap else groups == V6_GROUPS


cdef int authority_check(Slice *a) noexcept nogil:
    cdef const char *p = a.p
    cdef uint32_t n = a.n, i = 0, digits, port = 0
    if n == 0:
        return FM_EHOST
    if p[0] == 91:  # '['
        i = 1
        while i < n and p[i] != 93:
            i += 1
        if i == n or not is_ipv6(p + 1, i - 1):
            return FM_EHOST
        i += 1
    else:
        while i < n and fm_cc[<unsigned char>p[i]] & CC_REGNAME:
            i += 1
        if i == 0 or i > NAME_MAX:
            return FM_EHOST
    if i == n:
        return FM_OK
    if p[i] != 58:  # ':'
        return FM_EHOST
    if i + 1 == n:
        a.n = i
        return FM_OK
    digits = n - i - 1
    if digits > PORT_DIGITS:
        return FM_EHOST
    for i in range(i + 1, n):
        if not 48 <= p[i] <= 57:
            return FM_EHOST
        port = port * 10 + <uint32_t>(p[i] - 48)
    return FM_OK if port <= PORT_MAX else FM_EHOST
