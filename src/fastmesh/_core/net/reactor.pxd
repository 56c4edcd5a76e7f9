"""The reactor (L2): one epoll loop, edge-triggered, a clock read once a turn, a list of tasks for the end of the turn."""
from libc.stdint cimport uint32_t, uint64_t
from fastmesh._core.base.buf cimport BufPool
from fastmesh._core.base.pool cimport Pool
from fastmesh._core.base.sys cimport iovec
from fastmesh._core.base.timer cimport Wheel

cdef enum:
    REACTOR_EVENTS = 256         # events taken from the kernel at once
    REACTOR_BEAT_MS = 1000       # longest sleep: the heartbeat
    SCRATCH_BYTES = 262144       # one read at most
    GATHER_IOV = 64
    GATHER_BYTES = 196608        # heads and chunk lines made in one turn for one connection

ctypedef void (*SourceFn)(Source *s, uint32_t events) noexcept nogil
ctypedef void (*TaskFn)(void *arg) noexcept nogil
ctypedef void (*TurnFn)(Reactor *r) noexcept nogil

cdef struct Source:              # first member of whatever epoll points at
    SourceFn fn
    Reactor *r
    int fd

cdef struct Task:                # run once at the end of the turn
    Task *next
    TaskFn fn
    void *arg
    uint32_t queued

cdef struct Gather:              # what is about to be written to one connection (net/conn)
    void *conn
    uint32_t n
    uint32_t used
    size_t bytes
    iovec v[64]
    char *buf                    # GATHER_BYTES

cdef struct Reactor:
    int epfd
    int stop
    uint64_t now_ns
    uint64_t now_ms
    uint64_t turns
    Wheel wheel
    Task *tasks
    Task **tasks_tail
    char *scratch                # SCRATCH_BYTES: reads land here first
    Gather g
    BufPool bufs
    Pool conns
    void *dead                   # connections closed in this turn (net/conn)
    TurnFn turn_begin
    TurnFn turn_end
    void *ctx                    # the worker
    uint32_t nconns
    uint32_t taken               # events of this turn
    uint64_t rx, tx              # bytes on all connections

cdef int reactor_init(Reactor *r, uint64_t mem_cap, uint32_t conn_cap, uint32_t conn_bytes) noexcept nogil
cdef int reactor_add(Reactor *r, Source *s, uint32_t events) noexcept nogil
cdef void reactor_del(Reactor *r, Source *s) noexcept nogil
cdef void reactor_task(Reactor *r, Task *t) noexcept nogil
"""Queue t once; it runs at the end of this turn."""
cdef void reactor_forget_tasks(Reactor *r) noexcept nogil
"""What is queued will not run: the loop has ended."""
cdef void reactor_run(Reactor *r) noexcept nogil
"""Turn until r.stop."""
cdef void reactor_end(Reactor *r) noexcept nogil
