"""The reactor (L2). See reactor.pxd. Order of a turn: wait, clock, turn_begin, events, tasks, timers, tasks, turn_end."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from fastmesh._core.base.buf cimport buf_end, buf_init
from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.base.pool cimport pool_end, pool_init
from fastmesh._core.base.sys cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, fm_clock_ns)
from fastmesh._core.base.timer cimport wheel_init, wheel_run, wheel_wait


cdef int reactor_init(Reactor *r, uint64_t mem_cap, uint32_t conn_cap, uint32_t conn_bytes) noexcept nogil:
    memset(r, 0, sizeof(Reactor))
    r.epfd = epoll_create1(EPOLL_CLOEXEC)
    r.scratch = <char *>malloc(SCRATCH_BYTES)
    r.g.buf = <char *>malloc(GATHER_BYTES)
    if r.epfd < 0 or r.scratch == NULL or r.g.buf == NULL:
        return FM_ENOMEM
    r.now_ns = fm_clock_ns()
    r.now_ms = r.now_ns // 1000000
    r.tasks_tail = &r.tasks
    wheel_init(&r.wheel, r.now_ms)
    buf_init(&r.bufs, mem_cap)
    pool_init(&r.conns, conn_bytes, conn_cap)
    return FM_OK


cdef int reactor_add(Reactor *r, Source *s, uint32_t events) noexcept nogil:
    cdef epoll_event ev
    ev.events = events | EPOLLET
    ev.data.ptr = s
    s.r = r
    return FM_OK if epoll_ctl(r.epfd, EPOLL_CTL_ADD, s.fd, &ev) == 0 else FM_ENOMEM


cdef void reactor_del(Reactor *r, Source *s) noexcept nogil:
    cdef epoll_event ev
    epoll_ctl(r.epfd, EPOLL_CTL_DEL, s.fd, &ev)


cdef void reactor_task(Reactor *r, Task *t) noexcept nogil:
    if t.queued:
        return
    t.queued = 1
    t.next = NULL
    r.tasks_tail[0] = t
    r.tasks_tail = &t.next


cdef void reactor_forget_tasks(Reactor *r) noexcept nogil:
    while r.tasks != NULL:
        r.tasks.queued = 0
        r.tasks = r.tasks.next
    r.tasks_tail = &r.tasks


cdef void run_tasks(Reactor *r) noexcept nogil:
    # those that are queued now: what they queue, themselves included, runs when events have been looked at again
    cdef Task *t = r.tasks
    cdef Task *nxt
    r.tasks = NULL
    r.tasks_tail = &r.tasks
    while t != NULL:
        nxt = t.next
        t.queued = 0
        t.fn(t.arg)
        t = nxt


cdef void reactor_run(Reactor *r) noexcept nogil:
    cdef epoll_event ev[REACTOR_EVENTS]
    cdef int n, i
    cdef Source *s
    while not r.stop:
        n = epoll_wait(r.epfd, ev, REACTOR_EVENTS, 0 if r.tasks != NULL else wheel_wait(&r.wheel, r.now_ms, REACTOR_BEAT_MS))
        r.now_ns = fm_clock_ns()
        r.now_ms = r.now_ns // 1000000
        r.turns += 1
        r.taken = <uint32_t>n if n > 0 else 0
        r.turn_begin(r)
        for i in range(n):
            s = <Source *>ev[i].data.ptr
            s.fn(s, ev[i].events)
        run_tasks(r)
        wheel_run(&r.wheel, r.now_ms)
        run_tasks(r)
        r.turn_end(r)


cdef void reactor_end(Reactor *r) noexcept nogil:
    if r.epfd >= 0:
        close(r.epfd)
    free(r.scratch)
    free(r.g.buf)
    pool_end(&r.conns)
    buf_end(&r.bufs)
