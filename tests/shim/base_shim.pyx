"""Plays the owner of timers, pooled objects and byte blocks from Python: base/timer, base/pool, base/buf."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastmesh._core.base.buf cimport (
    Block, BufPool, block_data, block_free, block_free_all, block_grow, block_len, block_new, block_room, buf_end, buf_init,
)
from fastmesh._core.base.pool cimport POOL_SLAB, Pool, pool_end, pool_get, pool_init, pool_put
from fastmesh._core.base.timer cimport Timer, Wheel, timer_armed, timer_del, timer_set, wheel_init, wheel_run, wheel_wait

SLAB = POOL_SLAB

cdef enum:
    TIMERS = 256
    TICKS_OF_A_RUN = 100000

cdef struct Deed:              # what a timer does to another one when it fires
    int kind                   # 0 nothing, 1 delete, 2 arm
    uint32_t other
    uint64_t when              # from now, ms

cdef struct Bench:
    Wheel wheel
    Timer timers[256]
    Deed deeds[256]
    uint32_t fired[100000]
    uint32_t nfired


cdef void on_fire(void *arg, uint64_t now_ms) noexcept nogil:
    # arg: the timer's index in the one bench there is
    cdef uint32_t i = <uint32_t><size_t>arg
    cdef Deed d = bench.deeds[i]
    if bench.nfired < TICKS_OF_A_RUN:
        bench.fired[bench.nfired] = i
        bench.nfired += 1
    bench.deeds[i].kind = 0
    if d.kind == 1:
        timer_del(&bench.wheel, &bench.timers[d.other])
    elif d.kind == 2:
        timer_set(&bench.wheel, &bench.timers[d.other], now_ms + d.when)


cdef Bench *bench = <Bench *>calloc(1, sizeof(Bench))


def begin(uint64_t now_ms):
    """A new wheel; all timers are unarmed."""
    cdef uint32_t i
    memset(bench, 0, sizeof(Bench))
    wheel_init(&bench.wheel, now_ms)
    for i in range(TIMERS):
        bench.timers[i].fn = on_fire
        bench.timers[i].arg = <void *><size_t>i


def arm(uint32_t i, uint64_t when_ms):
    timer_set(&bench.wheel, &bench.timers[i], when_ms)


def disarm(uint32_t i):
    timer_del(&bench.wheel, &bench.timers[i])


def armed(uint32_t i) -> bool:
    return timer_armed(&bench.timers[i])


def armed_count() -> int:
    return bench.wheel.armed


def deed(uint32_t i, int kind, uint32_t other, uint64_t when):
    """When i fires it deletes (1) or arms (2) another."""
    bench.deeds[i].kind = kind
    bench.deeds[i].other = other
    bench.deeds[i].when = when


def run(uint64_t now_ms) -> list:
    """The timers that fired, in order."""
    cdef uint32_t i
    bench.nfired = 0
    with nogil:
        wheel_run(&bench.wheel, now_ms)
    return [bench.fired[i] for i in range(bench.nfired)]


def wait(uint64_t now_ms, int most_ms) -> int:
    return wheel_wait(&bench.wheel, now_ms, most_ms)


cdef class Objects:
    """A pool; objects are named by their address."""
    cdef Pool pool
    cdef readonly int size

    def __cinit__(self, uint32_t size, uint32_t cap):
        self.size = size
        pool_init(&self.pool, size, cap)

    def __dealloc__(self):
        pool_end(&self.pool)

    def get(self):
        """An address, or None at the cap. The object was zeroed; it is filled."""
        cdef char *o = <char *>pool_get(&self.pool)
        cdef int i
        if o == NULL:
            return None
        for i in range(self.size):
            if o[i] != 0:
                raise AssertionError("not zeroed")
        memset(o, 0x5A, self.size)
        return <size_t>o

    def put(self, size_t o):
        """Give it back; every byte must be what it was filled with."""
        cdef char *p = <char *>o
        cdef int i
        for i in range(self.size):
            if p[i] != 0x5A:
                raise AssertionError("someone wrote into it")
        pool_put(&self.pool, p)

    @property
    def live(self):
        return self.pool.live

    @property
    def slabs(self):
        return self.pool.slabs


cdef class Blocks:
    """A buffer pool; blocks are named by their address."""
    cdef BufPool pool

    def __cinit__(self, uint64_t cap):
        buf_init(&self.pool, cap)

    def __dealloc__(self):
        buf_end(&self.pool)

    def new(self, uint32_t need):
        cdef Block *b = block_new(&self.pool, need)
        return None if b == NULL else <size_t>b

    def write(self, size_t at, bytes data):
        cdef Block *b = <Block *>at
        if block_room(b) < <uint32_t>len(data):
            raise ValueError("no room")
        memcpy(block_data(b) + b.end, <const char *>data, len(data))
        b.end += <uint32_t>len(data)

    def skip(self, size_t at, uint32_t n):
        (<Block *>at).start += n

    def read(self, size_t at) -> bytes:
        cdef Block *b = <Block *>at
        return (block_data(b) + b.start)[:block_len(b)]

    def room(self, size_t at) -> int:
        return block_room(<Block *>at)

    def grow(self, size_t at):
        cdef Block *b = block_grow(&self.pool, <Block *>at)
        return None if b == NULL else <size_t>b

    def free(self, size_t at):
        block_free(&self.pool, <Block *>at)

    def free_chain(self, list blocks):
        """Link them and free them as one."""
        cdef Block *head = NULL
        cdef size_t at
        for at in reversed(blocks):
            (<Block *>at).next = head
            head = <Block *>at
        block_free_all(&self.pool, head)

    def state(self) -> dict:
        return {"held": self.pool.held, "kept": self.pool.kept, "live": self.pool.live}
