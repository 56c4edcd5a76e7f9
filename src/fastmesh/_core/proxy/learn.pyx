"""What load balancing and outlier detection learn of an endpoint (L3). See learn.pxd; what is made of it is policy/lb_ewma's and
policy/outlier's."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.policy.lb cimport LbView
from fastmesh._core.policy.lb_ewma cimport EWMA_PENALTY_NS, ewma_observe
from fastmesh._core.policy.outlier cimport OUT_5XX, OUT_GATEWAY, OUT_LOCAL, OUT_OK, outlier_observe, outlier_release
from fastmesh._core.proto.grpc cimport GRPC_DATA_LOSS, GRPC_DEADLINE_EXCEEDED, GRPC_INTERNAL, GRPC_UNAVAILABLE, GRPC_UNKNOWN
from fastmesh._core.proxy.ctx cimport XF_FAILED, XF_GRPC, XF_HASHED, XF_JUDGED, XF_PROBE, XF_TUNNEL, Exchange
from fastmesh._core.proxy.respond cimport (
    RE_CONNECT, RE_CONNECT_TIMEOUT, RE_OVERLOAD, RE_PENDING, RE_UP_GOAWAY, RE_UP_PROTOCOL, RE_UP_REFUSED, RE_UP_RESET, RE_UP_RST, RE_UP_TLS)
from fastmesh._core.shm.cells cimport EpShard
from fastmesh._core.shm.snapshot cimport SNAP_NONE, SnapCluster, snap_cluster


cdef inline uint64_t waited(const Exchange *ex) noexcept nogil:
    """Since the request went out; 0: it has not."""
    return ex.w.r.now_ns - ex.t_sent if ex.t_sent and ex.w.r.now_ns > ex.t_sent else 0


cdef void learn(Exchange *ex, uint64_t ns) noexcept nogil:
    if ex.plan.decay_ms and ex.cell != SNAP_NONE:
        ewma_observe(&ex.w.seg.cells[ex.cell], ex.w.r.now_ns, ex.plan.decay_ms, ns)


cdef void count(Exchange *ex, bint failed) noexcept nogil:
    """Each attempt once, and as a failure if anything of it was: a good head may be followed by half a body."""
    cdef EpShard *e = &ex.w.seg.rows[ex.w.seg.self_row].e[ex.cell]
    if not ex.flags & XF_JUDGED:
        e.requests += 1
    if failed and not ex.flags & XF_FAILED:
        e.failures += 1
        ex.flags |= XF_FAILED
    ex.flags |= XF_JUDGED


cdef void verdict(Exchange *ex, int kind) noexcept nogil:
    """For outlier detection, if the cluster has it (still: config may have changed since)."""
    cdef const SnapCluster *c
    if ex.cell == SNAP_NONE:
        return
    count(ex, kind != OUT_OK)
    if not ex.plan.watched or ex.w.snap.h == NULL:
        return
    c = snap_cluster(&ex.w.snap, ex.plan.cluster)
    if c != NULL:
        outlier_observe(&ex.w.seg, &ex.w.snap, c, ex.cell, kind, (ex.flags & XF_PROBE) != 0, ex.w.r.now_ns)
        ex.flags &= ~<uint32_t>XF_PROBE


cdef void learn_call(Exchange *ex) noexcept nogil:
    # the classes of Envoy's grpcToHttpStatus
    cdef int status = <int>ex.grpc - 1
    if not ex.flags & XF_GRPC or ex.grpc == 0:
        return
    if status == GRPC_UNAVAILABLE or status == GRPC_DEADLINE_EXCEEDED:
        verdict(ex, OUT_GATEWAY)
    elif status == GRPC_UNKNOWN or status == GRPC_INTERNAL or status == GRPC_DATA_LOSS:
        verdict(ex, OUT_5XX)
    else:
        verdict(ex, OUT_OK)


cdef void learn_answer(Exchange *ex, int status) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if status >= 500 or not ex.flags & XF_GRPC:
        verdict(ex, OUT_GATEWAY if 502 <= status <= 504 else (OUT_5XX if status >= 500 else OUT_OK))
    elif ex.grpc:
        learn_call(ex)           # trailers only; else it comes at the end
    if status == 429 or 502 <= status <= 504:
        # It has no capacity, or nobody behind it has. (Other errors may be the request's own fault.)
        learn(ex, ns if ns > EWMA_PENALTY_NS else EWMA_PENALTY_NS)
    elif ns:
        learn(ex, ns)


cdef void learn_failure(Exchange *ex, int code) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if code == RE_OVERLOAD or code == RE_PENDING or code == RE_UP_GOAWAY:
        return                   # it is not the endpoint that fails
    if (code == RE_CONNECT or code == RE_CONNECT_TIMEOUT or code == RE_UP_TLS or code == RE_UP_RESET or code == RE_UP_RST
            or code == RE_UP_PROTOCOL or code == RE_UP_REFUSED):
        verdict(ex, OUT_LOCAL)
    learn(ex, ns if ns > EWMA_PENALTY_NS else EWMA_PENALTY_NS)


cdef void learn_cut(Exchange *ex) noexcept nogil:
    if ex.cell == SNAP_NONE or ex.flags & XF_TUNNEL:
        return                   # that a tunnel ends is no failure
    if ex.flags & XF_JUDGED:
        count(ex, True)          # a row of failures has ended with the head
    else:
        verdict(ex, OUT_LOCAL)   # a gRPC call without a status


cdef void learn_waited(Exchange *ex) noexcept nogil:
    cdef uint64_t ns = waited(ex)
    if ns:
        learn(ex, ns)


cdef void learn_late(Exchange *ex) noexcept nogil:
    verdict(ex, OUT_LOCAL)


cdef void learn_left(Exchange *ex) noexcept nogil:
    if ex.flags & XF_PROBE:
        ex.flags &= ~<uint32_t>XF_PROBE
        outlier_release(&ex.w.seg, ex.cell, ex.w.r.now_ns)


cdef void learn_view(const Exchange *ex, LbView *v, bint *probe) noexcept nogil:
    v.cells = ex.w.seg.cells
    v.clusters = ex.w.seg.cluster_cells
    v.rows = ex.w.seg.rows
    v.workers = ex.w.seg.workers
    v.self_row = ex.w.seg.self_row
    v.now_ns = ex.w.r.now_ns
    v.rr = ex.w.rr
    v.dice = ex.w.dice
    v.key = ex.hash_key
    v.keyed = (ex.flags & XF_HASHED) != 0
    v.probe = probe
    v.tried = &ex.tried[0]
    v.ntried = 0
    v.remote = 0
    v.shares = ex.w.shares
