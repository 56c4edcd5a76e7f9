"""Whether a request may go on (L3): who sends it, what for, and what the authorization policies of its listener say (policy/authz)."""
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.policy.authz cimport AuthzVerdict
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange, ListenerState, Tcp

cdef int access_judge(Exchange *ex, Msg *m, const ListenerState *l) noexcept nogil
"""FM_OK, or what the exchange is answered with, logged already: RE_DENIED, RE_PATH, FM_EHEAD. Where policies ask for paths, m has the one
that was judged afterwards: it is the one that is routed and sent."""
cdef bint access_session(Tcp *t, const Addr *called, AuthzVerdict *v) noexcept nogil
"""Whether a connection of which nothing but its ends is known may go on. called: what its client dialled. The listener has policies."""
