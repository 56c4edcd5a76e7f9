"""How a request enters (L3): its head is judged, routed, changed for the next hop, and the first attempt begins. What is not to go on is
answered here."""
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.proxy.ctx cimport Exchange, ListenerState

cdef void entry_head(Exchange *ex, Msg *m, ListenerState *l) noexcept nogil
"""A request head. When this returns, the exchange is on its way upstream, or has been answered and may be finished."""
cdef void entry_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil
"""The request is complete: its body has come whole."""
cdef void entry_refuse(Exchange *ex, const Msg *m, int code) noexcept nogil
"""A request that the codec refused: answer it and finish. m: its head, or NULL: there is none that could be read."""
