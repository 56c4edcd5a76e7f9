"""WebSocket in either version (L3): an exchange has it in HTTP/1's form (Upgrade, 101), and the HTTP/2 codecs translate (RFC 8441)."""
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef int bridge_from_connect(Exchange *ex, Msg *m) noexcept nogil
"""A client's extended CONNECT becomes GET with Upgrade; a key is made where there is none. FM_OK, FM_EMETHOD: another protocol than websocket;
FM_EHEAD: no room."""
cdef int bridge_to_connect(Exchange *ex, Msg *m) noexcept nogil
"""GET with Upgrade becomes an extended CONNECT; what the client will want to see accepted is kept in ex. FM_OK, FM_EMETHOD."""
cdef int bridge_from_accepted(Exchange *ex, Msg *m) noexcept nogil
"""An upstream's 2xx to an extended CONNECT becomes 101. FM_OK, FM_EHEAD."""
cdef void bridge_to_accepted(Msg *m) noexcept nogil
"""101 becomes 200."""
