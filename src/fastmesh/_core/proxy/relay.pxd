"""Back-pressure between two connections (L3). Header-only."""
from fastmesh._core.net.conn cimport CF_BLOCKED, Conn
from fastmesh._core.net.out cimport conn_congested
from fastmesh._core.proxy.ctx cimport Worker
from fastmesh._core.shm.stats cimport ST_PAUSES, stat_inc


cdef inline bint relay_full(Worker *w, Conn *c) noexcept nogil:
    """The socket took less than it was given: stop its source. ops.drained comes when the rest is out."""
    if not conn_congested(c):
        return False
    if not c.flags & CF_BLOCKED:
        c.flags |= CF_BLOCKED
        stat_inc(w.seg.stats, ST_PAUSES)
    return True
