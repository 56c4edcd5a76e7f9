"""What the proxy changes in a request on its way (L3): header operations, rewrite, forwarding and trace fields; and in an answer."""
from libc.stdint cimport uint32_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange, Worker
from fastmesh._core.shm.snapshot cimport SnapArr

cdef int forward_request(Exchange *ex, Msg *m, const RouteMatch *rm, Slice *target) noexcept nogil
"""Edit m for the way upstream and give the target to send. FM_OK or FM_EHEAD: it does not fit."""
cdef int forward_keep_response_ops(Exchange *ex, const RouteMatch *rm) noexcept nogil
"""Copy the route's response operations into ex.ops. FM_OK or FM_ENOMEM."""
cdef int forward_keep_field(Exchange *ex, Slice name, int hid, Slice value) noexcept nogil
"""One more field for the answer's head, copied into ex.ops. FM_OK or FM_ENOMEM."""
cdef int forward_set_field(Exchange *ex, Slice name, int hid, Slice value) noexcept nogil
"""The same, instead of what the upstream says."""
cdef int forward_response(Exchange *ex, Msg *m) noexcept nogil
"""Edit the answer's head: x-ratelimit-* of ex.limit, kept operations, Date when it has none (RFC 9110 6.6.1)."""
cdef int msg_add(Msg *m, const char *name, uint32_t name_n, const char *value, uint32_t value_n, int hid) noexcept nogil
"""One more field (borrowed); FM_EHEAD when there is no room."""
cdef char *hbuf_take(Worker *w, uint32_t n) noexcept nogil
"""n bytes that last until the next head; NULL: too many."""
