"""The life of an exchange (L3): named phases and where each failure goes. Codecs report events here; it speaks to them by ops only.

    HEAD -> PICK -> CONNECT -> SEND -> RESP -> DONE        failures before RESP may go back to PICK; all others end in respond or abort
"""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.proto.msg cimport Hdr, Msg
from fastmesh._core.proxy.ctx cimport DownOps, Exchange, ListenerState, Worker

cdef Exchange *exchange_new(Worker *w, const DownOps *ops, void *down, const ListenerState *l) noexcept nogil
"""NULL at a cap."""
cdef Exchange *exchange_shadow(const Exchange *of, const DownOps *ops) noexcept nogil
"""One that nobody waits for, with what is told of the request of `of`; its head, plan and place at the breaker are the caller's to give."""
cdef void exchange_begin(Exchange *ex, Msg *m) noexcept nogil
"""The first attempt, or the next. m: the request head where it is at hand; NULL: it has been kept."""
cdef void exchange_answer(Exchange *ex, int code) noexcept nogil
"""The proxy answers in the upstream's place (respond_error), and the exchange is over."""
cdef void exchange_finish(Exchange *ex) noexcept nogil
"""Once: the client's side is told by the codec, which sees ex.phase == PH_DONE when control returns to it."""
cdef bint exchange_wants_body(Exchange *ex) noexcept nogil
cdef void exchange_request_data(Exchange *ex, const Slice *v, int n) noexcept nogil
cdef void exchange_request_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil
cdef void exchange_request_bad(Exchange *ex, int code) noexcept nogil
"""The request's body is malformed."""
cdef void exchange_down_closed(Exchange *ex) noexcept nogil
"""The client has gone."""
cdef void exchange_down_reset(Exchange *ex, uint32_t code, bint remote) noexcept nogil
"""HTTP/2: the client's stream was reset with code, by the client (remote) or for what it did; the codec has let go of ex.down before."""
cdef void exchange_down_idle(Exchange *ex) noexcept nogil
"""Nothing has moved for too long."""
cdef void exchange_up_ready(Exchange *ex) noexcept nogil
cdef void exchange_up_other(Exchange *ex) noexcept nogil
"""The connection that it waited for is another's: choose again. The codec has let go of ex.up before."""
cdef void exchange_up_failed(Exchange *ex, int code) noexcept nogil
"""RE_CONNECT*, RE_UP_*: the upstream connection or stream is no more (the codec drops it after this returns)."""
cdef void exchange_response_head(Exchange *ex, Msg *m) noexcept nogil
cdef void exchange_response_data(Exchange *ex, const Slice *v, int n) noexcept nogil
cdef void exchange_response_end(Exchange *ex, const Hdr *trailers, int n) noexcept nogil
"""Complete; the codec has let go of ex.up before."""
cdef void exchange_sent(Exchange *ex) noexcept nogil
"""Request bytes have been handed to the socket: the application's time begins."""
cdef void exchange_reap(Worker *w) noexcept nogil
