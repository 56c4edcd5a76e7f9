"""Answers that the proxy itself makes (L3): the only place that turns an error code into a status, a response flag and a reason."""
from libc.stdint cimport uint32_t
from fastmesh._core.base.view cimport Slice
from fastmesh._core.policy.router cimport RouteMatch
from fastmesh._core.proto.msg cimport Msg
from fastmesh._core.proxy.ctx cimport Exchange

cdef enum:  # codes beyond base/err.pxd that only the proxy makes
    RE_CONNECT = -100            # no connection to the upstream: 503 UF
    RE_CONNECT_TIMEOUT = -101    # 503 UF
    RE_UP_RESET = -102           # reset or closed before an answer: 503 UC
    RE_UP_PROTOCOL = -103        # 502 UPE
    RE_TIMEOUT = -104            # 504 UT
    RE_HEAD_TIMEOUT = -105       # 408: the head did not come in time
    RE_OVERLOAD = -106           # 503 OM
    RE_OVERFLOW = -107           # 503 UO: the cluster's limit of requests in flight
    RE_IDLE = -108               # 408 or 504 SI: nothing moved for too long
    RE_NO_CONFIG = -109          # 503: no config yet
    RE_UP_TLS = -110             # TLS to the upstream failed: 503 UF
    RE_UP_RST = -111             # the upstream reset the stream (HTTP/2), with ex.h2_error: 503 UR
    RE_UP_REFUSED = -112         # ... and has not looked at the request: REFUSED_STREAM: 503 UR
    RE_FAULT = -115              # the route's fault: plan.abort_status or abort_grpc, FI
    RE_PENDING = -114            # 503 UO: too many wait for a connection, or one has for too long
    RE_LIMITED = -116            # 429 RL: a rate limit, whose figures are in ex.limit
    RE_DENIED = -117             # 403: an authorization policy
    RE_PATH = -118               # 400: a path that authorization cannot judge (proto/pathnorm)
    RE_UP_GOAWAY = -113          # ... nor at this one, above the last id of its GOAWAY: 503 UR

cdef void respond_error(Exchange *ex, int code) noexcept nogil
"""Answer with what `code` maps to; ex.rf, ex.status, ex.details and the counters are set. Nothing may have gone downstream yet."""
cdef int respond_direct(Exchange *ex, const RouteMatch *rm) noexcept nogil
cdef int respond_redirect(Exchange *ex, const Msg *m, const RouteMatch *rm) noexcept nogil
"""301/302/303/307/308 with a Location built from the request and the route. FM_OK or FM_EHEAD."""
cdef int respond_preflight(Exchange *ex) noexcept nogil
"""200 with what proxy/cors has kept for the answer. FM_OK or FM_EHEAD."""
cdef int respond_https(Exchange *ex, const Msg *m) noexcept nogil
"""301 to the same target under https (Gateway tls.httpsRedirect)."""
