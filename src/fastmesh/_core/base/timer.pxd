"""Timer wheel (L0): four levels of 64 slots, 4 ms resolution, 18 hours of reach. Time comes in as an argument; there is no second clock."""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    TIMER_TICK_SHIFT = 2       # a tick is 4 ms
    TIMER_LEVELS = 4

ctypedef void (*TimerFn)(void *arg, uint64_t now_ms) noexcept nogil

cdef struct Timer:
    Timer *next                # NULL: not armed
    Timer *prev
    uint64_t when              # tick
    TimerFn fn
    void *arg
    uint32_t slot              # level * 64 + index

cdef struct Wheel:
    uint64_t now               # tick that has been run
    uint64_t busy[4]           # a bit per slot with timers
    Timer head[256]            # list heads
    uint32_t armed

cdef inline bint timer_armed(const Timer *t) noexcept nogil:
    return t.next != NULL

cdef void wheel_init(Wheel *w, uint64_t now_ms) noexcept nogil
cdef void timer_set(Wheel *w, Timer *t, uint64_t when_ms) noexcept nogil
"""Arm or move; never fires before when_ms, and at the next run when that has passed."""
cdef void timer_del(Wheel *w, Timer *t) noexcept nogil
cdef void wheel_run(Wheel *w, uint64_t now_ms) noexcept nogil
"""Fire what is due. A callback may arm, move and delete any timer."""
cdef int wheel_wait(const Wheel *w, uint64_t now_ms, int most_ms) noexcept nogil
"""Milliseconds until wheel_run has something to do, at most most_ms."""
