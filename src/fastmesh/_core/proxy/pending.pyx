"""Requests that wait because no connection may be opened (L3). See pending.pxd."""
from libc.stdint cimport uint32_t
from fastmesh._core.net.reactor cimport reactor_task
from fastmesh._core.policy.breaker cimport breaker_pending, breaker_pending_done
from fastmesh._core.proxy.ctx cimport PH_DONE, XF_PENDING, Exchange, UpOps, UpPool, Worker
from fastmesh._core.proxy.exchange cimport exchange_up_other
from fastmesh._core.shm.snapshot cimport SnapCluster

cdef UpOps WAIT_OPS


cdef void pending_init(Worker *w) noexcept nogil:
    WAIT_OPS.abort = wait_abort
    WAIT_OPS.resume = wait_nothing
    WAIT_OPS.congested = wait_true
    WAIT_OPS.unseen = wait_true
    WAIT_OPS.flush = wait_nothing
    w.pool_wait = &WAIT_OPS
    w.serve_task.fn = serve
    w.serve_task.arg = w


cdef bint pending_count(Exchange *ex, const SnapCluster *c) noexcept nogil:
    if not breaker_pending(&ex.w.seg, c):
        return False
    ex.flags |= XF_PENDING
    return True


cdef void pending_over(Exchange *ex) noexcept nogil:
    if ex.flags & XF_PENDING:
        ex.flags &= ~<uint32_t>XF_PENDING
        breaker_pending_done(&ex.w.seg, ex.cluster_cell)


cdef void pending_wait(UpPool *p, Exchange *ex) noexcept nogil:
    ex.up = p
    ex.uops = ex.w.pool_wait
    ex.wait_next = NULL
    ex.wait_prev = p.waiting_last
    if p.waiting_last != NULL:
        p.waiting_last.wait_next = ex
    else:
        p.waiting = ex
    p.waiting_last = ex


cdef void leave(UpPool *p, Exchange *ex) noexcept nogil:
    if ex.wait_prev != NULL:
        ex.wait_prev.wait_next = ex.wait_next
    else:
        p.waiting = ex.wait_next
    if ex.wait_next != NULL:
        ex.wait_next.wait_prev = ex.wait_prev
    else:
        p.waiting_last = ex.wait_prev
    ex.up = NULL


cdef void first(UpPool *p, Exchange *ex) noexcept nogil:
    ex.up = p
    ex.wait_prev = NULL
    ex.wait_next = p.waiting
    if p.waiting != NULL:
        p.waiting.wait_prev = ex
    else:
        p.waiting_last = ex
    p.waiting = ex


cdef Exchange *pending_take(UpPool *p) noexcept nogil:
    cdef Exchange *ex = p.waiting
    if ex != NULL:
        leave(p, ex)
    return ex


cdef bint pending_waits(const Exchange *ex) noexcept nogil:
    return ex.up != NULL and ex.uops == ex.w.pool_wait


cdef void wait_abort(Exchange *ex) noexcept nogil:
    if ex.up != NULL:
        leave(<UpPool *>ex.up, ex)


cdef void wait_nothing(Exchange *ex) noexcept nogil:
    pass


cdef bint wait_true(Exchange *ex) noexcept nogil:
    return True


cdef void pending_serve(Worker *w, UpPool *p) noexcept nogil:
    if p.waiting == NULL or p.serving:
        return
    p.serving = 1
    p.next_serve = w.serve
    w.serve = p
    reactor_task(&w.r, &w.serve_task)


cdef void serve_pool(UpPool *p) noexcept nogil:
    # those who wait now are asked once, until one finds no room: it stays the first
    cdef Exchange *last = p.waiting_last
    cdef Exchange *ex
    cdef bint more = True
    while more and p.waiting != NULL:
        ex = pending_take(p)
        more = ex != last
        exchange_up_other(ex)
        if ex.phase == PH_DONE:
            continue
        if pending_waits(ex) and <UpPool *>ex.up == p:
            leave(p, ex)
            first(p, ex)
            return


cdef void serve(void *arg) noexcept nogil:
    cdef Worker *w = <Worker *>arg
    cdef UpPool *p = w.serve
    cdef UpPool *nxt
    w.serve = NULL
    while p != NULL:
        nxt = p.next_serve
        p.serving = 0
        serve_pool(p)
        p = nxt
