"""What is kept of a request so that it can be sent again (L3): its head, and its body as long as that is at most REPLAY_BYTES.

While XF_REPLAYABLE is set, ex.req and ex.body hold everything that was sent.
"""
from fastmesh._core.base.view cimport Slice
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef int replay_keep_head(Exchange *ex, const Msg *m) noexcept nogil
"""FM_OK or FM_ENOMEM."""
cdef void replay_keep_data(Exchange *ex, const Slice *v, int n) noexcept nogil
"""A part of the body, before ex.rx_bytes counts it; what does not fit or cannot be kept makes the request one that is sent once."""
cdef int replay_copy(const Exchange *ex, Exchange *to) noexcept nogil
"""What is kept of one exchange is kept of another, too (while XF_REPLAYABLE). FM_OK or FM_ENOMEM."""
cdef void replay_forget_body(Exchange *ex) noexcept nogil
"""The request cannot be repeated any more."""
cdef void replay_forget(Exchange *ex) noexcept nogil
"""The same, and its head is not needed either."""
