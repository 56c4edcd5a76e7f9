"""What may stand in Host, :authority and the authority of an absolute target (L1): RFC 3986 3.2, RFC 9110 7.2, strictly."""
from fastmesh._core.base.view cimport Slice

cdef int authority_check(Slice *a) noexcept nogil
"""FM_OK or FM_EHOST for host [":" port]. An empty port ("example.com:") is taken off *a, as RFC 9110 4.2.3 makes both the same.

Accepts names of letters, digits, '-', '.', '_', '~'; IPv4; IPv6 in brackets without zone; ports 0-65535. Refuses user information,
percent-encoding, sub-delims, IPvFuture and an empty host: what one hop unescapes or splits and another does not.
"""
