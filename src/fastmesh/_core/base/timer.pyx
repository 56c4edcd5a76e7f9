"""Timer wheel (L0). See timer.pxd. Lists are circular with the slot's head; a slot's bit in `busy` may stay set when it empties."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

cdef extern from *:
    int fm_ctz64 "__builtin_ctzll" (unsigned long long x) nogil


cdef void wheel_init(Wheel *w, uint64_t now_ms) noexcept nogil:
    cdef uint32_t i
    memset(w, 0, sizeof(Wheel))
    w.now = now_ms >> TIMER_TICK_SHIFT
    for i in range(256):
        w.head[i].next = &w.head[i]
        w.head[i].prev = &w.head[i]


cdef void timer_link(Wheel *w, Timer *t) noexcept nogil:
    cdef uint64_t d = t.when - w.now
    cdef uint64_t when = t.when
    cdef uint32_t level = 0
    cdef uint32_t s
    cdef Timer *h
    # the level is the lowest one whose span holds the distance; beyond all: the farthest slot, and it is linked again from there
    while level < TIMER_LEVELS - 1 and d >= (<uint64_t>64 << (6 * level)):
        level += 1
    if d >= (<uint64_t>63 << (6 * (TIMER_LEVELS - 1))):
        when = w.now + (<uint64_t>63 << (6 * (TIMER_LEVELS - 1))) - 1
    s = level * 64 + <uint32_t>((when >> (6 * level)) & 63)
    h = &w.head[s]
    t.slot = s
    t.prev = h.prev
    t.next = h
    h.prev.next = t
    h.prev = t
    w.busy[level] |= <uint64_t>1 << (s & 63)


cdef void timer_del(Wheel *w, Timer *t) noexcept nogil:
    if t.next == NULL:
        return
    t.prev.next = t.next
    t.next.prev = t.prev
    t.next = NULL
    t.prev = NULL
    w.armed -= 1
    if w.head[t.slot].next == &w.head[t.slot]:
        w.busy[t.slot >> 6] &= ~(<uint64_t>1 << (t.slot & 63))


cdef void timer_set(Wheel *w, Timer *t, uint64_t when_ms) noexcept nogil:
    timer_del(w, t)
    t.when = (when_ms + (1 << TIMER_TICK_SHIFT) - 1) >> TIMER_TICK_SHIFT
    if t.when <= w.now:
        t.when = w.now + 1
    w.armed += 1
    timer_link(w, t)


cdef void cascade(Wheel *w, uint32_t level) noexcept nogil:
    # the level's current slot has begun: its timers go to lower levels
    cdef uint32_t s = level * 64 + <uint32_t>((w.now >> (6 * level)) & 63)
    cdef Timer *h = &w.head[s]
    cdef Timer *t = h.next
    cdef Timer *nxt
    h.next = h
    h.prev = h
    w.busy[level] &= ~(<uint64_t>1 << (s & 63))
    while t != h:
        nxt = t.next
        timer_link(w, t)
        t = nxt


cdef uint64_t next_tick(const Wheel *w) noexcept nogil:
    # the first tick behind w.now at which a slot of some level begins that has timers; 0: none
    cdef uint64_t best = 0
    cdef uint64_t bits, at
    cdef uint32_t level, cur
    for level in range(TIMER_LEVELS):
        bits = w.busy[level]
        if bits == 0:
            continue
        cur = <uint32_t>((w.now >> (6 * level)) & 63)
        # rotate so that bit 0 is the slot behind the current one
        cur = (cur + 1) & 63
        if cur:
            bits = (bits >> cur) | (bits << (64 - cur))
        at = ((w.now >> (6 * level)) + 1 + <uint64_t>fm_ctz64(bits)) << (6 * level)
        if best == 0 or at < best:
            best = at
    return best


cdef void wheel_run(Wheel *w, uint64_t now_ms) noexcept nogil:
    cdef uint64_t to = now_ms >> TIMER_TICK_SHIFT
    cdef uint64_t at
    cdef uint32_t level
    cdef Timer *h
    cdef Timer *t
    while w.now < to:
        at = next_tick(w)
        if at == 0 or at > to:
            w.now = to
            return
        w.now = at
        for level in range(1, TIMER_LEVELS):
            if (at & ((<uint64_t>1 << (6 * level)) - 1)) != 0:
                break
            cascade(w, level)
        h = &w.head[at & 63]
        while h.next != h:
            t = h.next
            timer_del(w, t)
            if t.when > at:          # linked here at the end of the wheel's reach
                w.armed += 1
                timer_link(w, t)
            else:
                t.fn(t.arg, now_ms)


cdef int wheel_wait(const Wheel *w, uint64_t now_ms, int most_ms) noexcept nogil:
    cdef uint64_t at = next_tick(w)
    cdef uint64_t ms
    if at == 0:
        return most_ms
    ms = at << TIMER_TICK_SHIFT
    if ms <= now_ms:
        return 0
    ms -= now_ms
    return <int>ms if ms < <uint64_t>most_ms else most_ms
