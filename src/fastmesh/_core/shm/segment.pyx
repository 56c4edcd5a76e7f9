"""BORDER (L1): class Segment, the one shared memory of a proxy: made by the arbiter, inherited by agent and workers over fork.

Owns: the two memfds, the eventfds, which snapshot slot is free. Must not know: HTTP, what a config means, asyncio.
Roles: the arbiter calls create, prepare, order, reap; the agent publish, reclaim and everything that reads; a worker segment_map only.
"""
import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastmesh._core.base.err cimport FM_ENOMEM, FM_OK
from fastmesh._core.base.trim cimport fm_trim_files
from fastmesh._core.base.sys cimport (
    AF_INET, AF_INET6, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, fallocate, fm_clock_ns,
    fm_errno, fm_fence, fm_load_acquire, fm_load_acquire32, fm_load_relaxed, fm_load_relaxed32, fm_store_release, fm_store_release32,
    getpid, inet_ntop, mmap, munmap)
from fastmesh._core.shm.cells cimport Bucket, ClCell, ClRow, EpCell, EpRow, EpShard, Memo
from fastmesh._core.shm.layout cimport (
    BUCKETS, CL_CELLS, EP_CELLS, LAYOUT_VERSION, MAX_WORKERS, MEMOS, ORDER_DRAIN, ORDER_NONE, ORDER_STOP, PEER_BYTES, PEER_SLOTS, RING_BYTES, SEG_MAGIC, SERIES_SLOTS,
    SNAP_SLOT_BYTES, SNAP_SLOTS, W_DRAINING, W_EMPTY, W_GONE, W_SERVING, W_STARTING, SegHeader, WorkerSlot)
from fastmesh._core.shm.ring cimport LOG_STRS, RING_MAX_RECORD, LogRec, Ring, ring_empty, ring_get
from fastmesh._core.shm.snapshot cimport SnapEndpoint, SnapFault, SnapHeader, SNAP_MAGIC, fnv64, snap_fault
from fastmesh._core.shm.names import (
    COUNTER_NAMES, DIRECTION_NAMES, FLAG_NAMES, LOG_STRINGS, PROTOCOL_NAMES, SECURITY_NAMES, STATE_NAMES)
from fastmesh._core.shm.stats cimport (
    HIST_BINS, ST_N, Hist, PeerTable, Series, SeriesKey, SeriesTable, StatsRow, hist_bounds)

# The names of StatsRow.c, in the order of its enum (shm/stats.pxd).
DURATION_BOUNDS_MS = (0.5, *[hist_bounds(0)[_i] // 1000 for _i in range(1, HIST_BINS - 1)])
HOP_BOUNDS_US = tuple([hist_bounds(1)[_i] for _i in range(HIST_BINS - 1)])
# Bytes are whole: the bin that the C side bounds by 0 is the one that Envoy bounds by 0.5.
BYTES_BOUNDS = (0.5, *[hist_bounds(2)[_i] for _i in range(1, HIST_BINS - 1)])
if len(COUNTER_NAMES) != ST_N or len(LOG_STRINGS) != LOG_STRS:
    raise ImportError("segment: names do not fit the layout")

globals().update({
    "LAYOUT_VERSION": <int>LAYOUT_VERSION, "MAX_WORKERS": <int>MAX_WORKERS, "EP_CELLS": <int>EP_CELLS, "CL_CELLS": <int>CL_CELLS, "RING_BYTES": <int>RING_BYTES,
    "SNAP_SLOTS": <int>SNAP_SLOTS, "SNAP_SLOT_BYTES": <int>SNAP_SLOT_BYTES,
    "ORDER_NONE": <int>ORDER_NONE, "ORDER_DRAIN": <int>ORDER_DRAIN, "ORDER_STOP": <int>ORDER_STOP,
    "W_EMPTY": <int>W_EMPTY, "W_STARTING": <int>W_STARTING, "W_SERVING": <int>W_SERVING, "W_DRAINING": <int>W_DRAINING,
    "W_GONE": <int>W_GONE,
})


class SnapshotError(ValueError):
    """Bytes that are not a usable snapshot; the message says where. What was published before stays."""


class SnapshotBusy(RuntimeError):
    """No slot is free: a worker still uses an old generation. Publish again later."""


cdef uint64_t page_up(uint64_t n) noexcept:
    return (n + 4095) & ~<uint64_t>4095


cdef object text(const char *p, size_t n):
    # what a client sent may be no UTF-8; a log line must still be text
    return p[:n].decode("utf-8", "backslashreplace")


cdef list hist_list(const Hist *h):
    cdef int i
    return [h.sum] + [h.bins[i] for i in range(HIST_BINS)]


cdef dict log_dict(const char *p, uint32_t n):
    cdef const LogRec *r = <const LogRec *>p
    cdef char addr[64]
    cdef uint32_t at = sizeof(LogRec)
    cdef int i
    cdef dict d = {
        "status": r.status, "minor": r.minor, "direction": r.direction, "flags": r.flags, "attempts": r.attempts,
        "start_wall_ns": r.start_wall_ns, "duration_us": r.duration_us, "upstream_us": r.upstream_us, "hop_us": r.hop_us,
        "rx_bytes": r.rx_bytes, "tx_bytes": r.tx_bytes, "security": r.security, "peer_port": r.peer_port, "peer_addr": "",
        "trace_id": (<const char *>r.trace_id)[:16].hex(), "grpc": r.grpc, "authz": r.authz,
    }
    if r.peer_family in (4, 6) and inet_ntop(AF_INET if r.peer_family == 4 else AF_INET6, r.peer_addr, addr, sizeof(addr)) != NULL:
        d["peer_addr"] = addr.decode()
    for i in range(LOG_STRS):
        if at + r.str_n[i] > n:
            break
        d[LOG_STRINGS[i]] = text(p + at, r.str_n[i])
        at += r.str_n[i]
    for i in range(i if at > n else LOG_STRS, LOG_STRS):
        d[LOG_STRINGS[i]] = ""
    return d


def trim_memory() -> int:
    """Give back file pages (code, constants) that only the start needed; bytes of the mappings. They come back as they are used."""
    return fm_trim_files()


cdef class Segment:
    """The shared memory of one proxy. Make it with Segment.create() before any fork; children use the inherited object."""

    def __cinit__(self):
        self.seg_fd = self.snap_fd = self.agent_fd = -1
        self.base = NULL
        self.snaps = NULL
        for i in range(MAX_WORKERS):
            self.wake[i] = -1

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.total)
        if self.snaps != NULL:
            munmap(self.snaps, <size_t>SNAP_SLOTS * SNAP_SLOT_BYTES)
        for fd in [self.seg_fd, self.snap_fd, self.agent_fd] + [self.wake[i] for i in range(MAX_WORKERS)]:
            if fd >= 0:
                os.close(fd)

    @staticmethod
    def create(workers: int) -> Segment:
        """Both memfds, mapped, and the eventfds, for this many worker slots."""
        cdef Segment s = Segment.__new__(Segment)
        cdef uint64_t at
        cdef void *p
        if not 1 <= workers <= MAX_WORKERS:
            raise ValueError(f"workers: {workers} is not between 1 and {MAX_WORKERS}")
        s.workers = workers
        cdef SegHeader h
        memset(&h, 0, sizeof(SegHeader))
        at = page_up(sizeof(SegHeader))
        h.off_slots = at
        at = page_up(at + MAX_WORKERS * sizeof(WorkerSlot))
        h.off_stats = at
        at = page_up(at + s.workers * sizeof(StatsRow))
        h.off_series = at
        at = page_up(at + s.workers * sizeof(SeriesTable))
        h.off_peers = at
        at = page_up(at + s.workers * sizeof(PeerTable))
        h.off_eprows = at
        at = page_up(at + s.workers * sizeof(EpRow))
        h.off_epcells = at
        at = page_up(at + EP_CELLS * sizeof(EpCell))
        h.off_clrows = at
        at = page_up(at + s.workers * sizeof(ClRow))
        h.off_clcells = at
        at = page_up(at + CL_CELLS * sizeof(ClCell))
        h.off_memos = at
        at = page_up(at + MEMOS * sizeof(Memo))
        h.off_buckets = at
        at = page_up(at + BUCKETS * sizeof(Bucket))
        h.off_rings = at
        at = page_up(at + s.workers * (sizeof(Ring) + RING_BYTES))
        h.magic = SEG_MAGIC
        h.version = LAYOUT_VERSION
        h.workers = workers
        h.total_bytes = at
        s.total = at
        s.seg_fd = os.memfd_create("fastmesh-state", os.MFD_CLOEXEC)
        os.ftruncate(s.seg_fd, at)
        s.snap_fd = os.memfd_create("fastmesh-config", os.MFD_CLOEXEC)
        os.ftruncate(s.snap_fd, SNAP_SLOTS * SNAP_SLOT_BYTES)
        p = mmap(NULL, at, PROT_READ | PROT_WRITE, MAP_SHARED, s.seg_fd, 0)
        if p == MAP_FAILED:
            raise OSError(fm_errno(), os.strerror(fm_errno()))
        s.base = <char *>p
        s.hdr = <SegHeader *>p
        memcpy(p, &h, sizeof(SegHeader))
        p = mmap(NULL, <size_t>SNAP_SLOTS * SNAP_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s.snap_fd, 0)
        if p == MAP_FAILED:
            raise OSError(fm_errno(), os.strerror(fm_errno()))
        s.snaps = <char *>p
        s.agent_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for i in range(workers):
            s.wake[i] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return s

    cdef WorkerSlot *slot_at(self, uint32_t i) noexcept:
        return <WorkerSlot *>(self.base + self.hdr.off_slots) + i

    cdef StatsRow *stats_at(self, uint32_t i) noexcept:
        return <StatsRow *>(self.base + self.hdr.off_stats) + i

    cdef SeriesTable *series_at(self, uint32_t i) noexcept:
        return <SeriesTable *>(self.base + self.hdr.off_series) + i

    cdef PeerTable *peers_at(self, uint32_t i) noexcept:
        return <PeerTable *>(self.base + self.hdr.off_peers) + i

    cdef Ring *ring_at(self, uint32_t i) noexcept:
        return <Ring *>(self.base + self.hdr.off_rings + i * (sizeof(Ring) + RING_BYTES))

    cdef EpRow *rows_at(self) noexcept:
        return <EpRow *>(self.base + self.hdr.off_eprows)

    cdef EpCell *cells_at(self) noexcept:
        return <EpCell *>(self.base + self.hdr.off_epcells)

    cdef ClRow *cluster_rows_at(self) noexcept:
        return <ClRow *>(self.base + self.hdr.off_clrows)

    cdef ClCell *cluster_cells_at(self) noexcept:
        return <ClCell *>(self.base + self.hdr.off_clcells)

    def _row(self, i):
        if not 0 <= i < self.workers:
            raise IndexError(f"worker {i} of {self.workers}")
        return i

    def _cell(self, i):
        if not 0 <= i < EP_CELLS:
            raise IndexError(f"endpoint cell {i} of {EP_CELLS}")
        return i

    # --- processes

    @property
    def wake_fds(self) -> list[int]:
        """One eventfd per worker slot, non-blocking."""
        return [self.wake[i] for i in range(self.workers)]

    def wake_worker(self, i: int) -> None:
        try:
            os.eventfd_write(self.wake[self._row(i)], 1)
        except BlockingIOError:
            pass               # it is poked as far as it goes

    def prepare(self, i: int) -> None:
        """A process is about to be forked for this slot: from now on no generation that it may read is reclaimed."""
        cdef WorkerSlot *w = self.slot_at(self._row(i))
        w.pid = 0
        w.order = ORDER_NONE
        w.drain_deadline_ns = 0
        w.heartbeat_ns = 0
        w.refused_gen = 0
        w.epoch += 1
        fm_store_release(&w.seen_gen, 0)
        fm_store_release32(&w.state, W_STARTING)

    def order(self, i: int, order: int, deadline_ns: int = 0) -> None:
        """Tell worker i to drain (until CLOCK_MONOTONIC deadline_ns) or to stop."""
        cdef WorkerSlot *w = self.slot_at(self._row(i))
        if order not in (ORDER_NONE, ORDER_DRAIN, ORDER_STOP):
            raise ValueError(f"order: {order}")
        fm_store_release(&w.drain_deadline_ns, deadline_ns)
        fm_store_release32(&w.order, order)
        self.wake_worker(i)

    def reap(self, i: int) -> None:
        """The worker of this slot is dead: lower what it left raised. Its counters and series stay: the next process goes on with them."""
        cdef WorkerSlot *w = self.slot_at(self._row(i))
        cdef EpRow *row = self.rows_at() + <uint32_t>i
        cdef ClRow *clusters = self.cluster_rows_at() + <uint32_t>i
        cdef uint32_t k
        for k in range(fm_load_acquire32(&self.hdr.cells_high)):
            row.e[k].active = 0
            row.e[k].connections = 0
        for k in range(fm_load_acquire32(&self.hdr.clusters_high)):
            clusters.c[k].active = clusters.c[k].pending = clusters.c[k].connections = clusters.c[k].retries = 0
        w.connections = w.active = w.upstreams = 0
        w.mem_bytes = 0
        w.lag_us = 0
        w.pid = 0
        w.order = ORDER_NONE
        w.drain_deadline_ns = 0
        fm_store_release(&w.seen_gen, 0)
        fm_store_release32(&w.state, W_GONE)

    def worker(self, i: int) -> dict:
        """All fields of the slot by name."""
        cdef WorkerSlot *w = self.slot_at(self._row(i))
        return {
            "pid": w.pid, "state": fm_load_acquire32(&w.state), "order": w.order, "epoch": w.epoch, "heartbeat_ns": w.heartbeat_ns,
            "seen_gen": fm_load_acquire(&w.seen_gen), "drain_deadline_ns": w.drain_deadline_ns, "connections": w.connections,
            "active": w.active, "upstreams": w.upstreams, "loops": w.loops, "mem_bytes": w.mem_bytes, "lag_us": w.lag_us, "refused_gen": w.refused_gen,
        }

    # --- config generations

    @property
    def generation(self) -> int:
        """The generation that is published; 0: none yet."""
        return fm_load_acquire(&self.hdr.current) >> 8

    def applied(self, gen: int) -> bool:
        """Every worker that serves, or starts, uses this generation or a newer one."""
        cdef uint32_t i, state
        for i in range(self.workers):
            state = fm_load_acquire32(&self.slot_at(i).state)
            if state in (W_STARTING, W_SERVING) and fm_load_acquire(&self.slot_at(i).seen_gen) < gen:
                return False
        return True

    cdef uint64_t oldest_in_use(self) noexcept:
        cdef uint64_t least = fm_load_acquire(&self.hdr.current) >> 8
        cdef uint64_t seen
        cdef uint32_t i, state
        for i in range(self.workers):
            state = fm_load_acquire32(&self.slot_at(i).state)
            if state == W_STARTING or state == W_SERVING or state == W_DRAINING:
                seen = fm_load_acquire(&self.slot_at(i).seen_gen)
                if seen < least:
                    least = seen
        return least

    cdef bint slot_free(self, uint32_t i, uint64_t oldest) noexcept:
        # Derived from shared memory alone, so that an agent that was restarted goes on: a slot is free when it was never filled or
        # punched, when its generation is one that nobody uses any more, or when its writer died before it published.
        cdef uint64_t now = fm_load_acquire(&self.hdr.current)
        cdef const SnapHeader *h = <const SnapHeader *>(self.snaps + <size_t>i * SNAP_SLOT_BYTES)
        if now != 0 and (now & 0xff) == i:
            return False
        return h.magic != SNAP_MAGIC or h.generation < oldest or h.generation > now >> 8

    def reclaim(self) -> int:
        """Give back the memory of generations that no worker uses any more; how many slots are free now."""
        cdef uint64_t oldest = self.oldest_in_use()
        cdef int free = 0
        for i in range(SNAP_SLOTS):
            if self.slot_free(i, oldest):
                free += 1
                if (<const SnapHeader *>(self.snaps + <size_t>i * SNAP_SLOT_BYTES)).bytes != 0:
                    self.punch(i)
        return free

    def punch(self, i: int) -> None:
        if fallocate(self.snap_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <uint64_t>i * SNAP_SLOT_BYTES, SNAP_SLOT_BYTES) != 0:
            raise OSError(fm_errno(), os.strerror(fm_errno()))

    def publish(self, packed: bytes) -> int:
        """Make these bytes the current config; returns its generation. The same content again changes nothing and returns the current
        generation. SnapshotError: unusable, SnapshotBusy: no free slot; what was current stays in both cases."""
        cdef SnapHeader h
        cdef SnapFault why
        cdef uint64_t now = fm_load_acquire(&self.hdr.current)
        cdef const SnapHeader *old
        cdef const char *p = packed
        cdef size_t n = len(packed)
        cdef int slot = -1
        cdef size_t at
        if self.snaps_readonly:
            raise RuntimeError("a worker does not publish")
        if n < sizeof(SnapHeader):
            raise SnapshotError(f"snapshot: {n} bytes are less than a header")
        if n > SNAP_SLOT_BYTES:
            raise SnapshotError(f"snapshot: {n} bytes, the limit is {SNAP_SLOT_BYTES}")
        memcpy(&h, p, sizeof(SnapHeader))
        if now != 0:
            old = <const SnapHeader *>(self.snaps + (now & 0xff) * <size_t>SNAP_SLOT_BYTES)
            h.generation = old.generation
            if old.bytes == n and memcmp(old, &h, sizeof(SnapHeader)) == 0 and memcmp(old + 1, p + sizeof(SnapHeader), n - sizeof(SnapHeader)) == 0:
                return old.generation
        self.reclaim()
        for i in range(SNAP_SLOTS):
            if self.slot_free(i, self.oldest_in_use()):
                slot = i
                break
        if slot < 0:
            raise SnapshotBusy(f"generation {now >> 8}: workers still use older ones")
        h.generation = (now >> 8) + 1
        at = <size_t>slot * SNAP_SLOT_BYTES
        try:
            # pwrite, not memcpy: no memory is then an error, not a SIGBUS. The header last: it is what makes the slot taken.
            view = memoryview(packed)
            done = sizeof(SnapHeader)
            while done < n:
                done += os.pwrite(self.snap_fd, view[done:], at + done)
            os.pwrite(self.snap_fd, (<char *>&h)[:sizeof(SnapHeader)], at)
        except OSError:
            self.punch(slot)
            raise
        if snap_fault(self.snaps + at, n, &why) != FM_OK:
            self.punch(slot)
            raise SnapshotError(f"snapshot: {why.section.decode()}[{why.index}]: {why.what.decode()}")
        fm_store_release(&self.hdr.current, h.generation << 8 | <uint32_t>slot)
        for i in range(self.workers):
            self.wake_worker(i)
        return h.generation

    def current_bytes(self) -> bytes:
        """A copy of the published snapshot; b"" before the first."""
        cdef uint64_t now = fm_load_acquire(&self.hdr.current)
        cdef const char *p = self.snaps + (now & 0xff) * <size_t>SNAP_SLOT_BYTES
        return p[:(<const SnapHeader *>p).bytes] if now else b""

    @property
    def oldest(self) -> int:
        """The oldest generation that a live worker may still use; `generation` when all have taken that up."""
        return self.oldest_in_use()

    def endpoint_tags(self) -> set[int]:
        """The tags of all endpoints that the published generation names."""
        cdef uint64_t now = fm_load_acquire(&self.hdr.current)
        cdef const char *p = self.snaps + (now & 0xff) * <size_t>SNAP_SLOT_BYTES
        cdef const SnapHeader *h = <const SnapHeader *>p
        cdef const SnapEndpoint *e
        cdef uint32_t i
        if now == 0:
            return set()
        e = <const SnapEndpoint *>(p + h.endpoints.off)
        return {e[i].tag for i in range(h.endpoints.n)}

    # --- endpoint cells

    def cell_tags(self) -> dict[int, int]:
        """Which tag owns which cell index."""
        cdef EpCell *c = self.cells_at()
        cdef uint32_t i
        return {c[i].tag: i for i in range(fm_load_acquire32(&self.hdr.cells_high)) if c[i].tag}

    def cell_take(self, i: int, tag: int) -> None:
        """Cell i belongs to this tag from now on. It is new to those who go by warm-up, unless nothing has been published yet."""
        cdef EpCell *c = self.cells_at() + <uint32_t>self._cell(i)
        c.since_ns = fm_clock_ns() if fm_load_acquire(&self.hdr.current) else 0
        c.tag = tag
        if <uint32_t>i >= self.hdr.cells_high:
            fm_store_release32(&self.hdr.cells_high, <uint32_t>i + 1)

    def cell_quiet(self, i: int) -> bool:
        """No worker has an exchange or a connection there."""
        cdef uint32_t w
        self._cell(i)
        for w in range(self.workers):
            if fm_load_relaxed32(&self.rows_at()[w].e[i].active) or fm_load_relaxed32(&self.rows_at()[w].e[i].connections):
                return False
        return True

    def cell_free(self, i: int) -> None:
        """Forget all about cell i; only for one that is quiet and that no generation in use names."""
        cdef uint32_t w
        for w in range(self.workers):
            memset(&self.rows_at()[w].e[<uint32_t>self._cell(i)], 0, sizeof(EpShard))
        memset(self.cells_at() + <uint32_t>i, 0, sizeof(EpCell))

    def endpoint_stats(self, cell: int) -> dict:
        """What the workers did with this endpoint, summed, and each worker's share; `ejected`: until when (CLOCK_MONOTONIC ns), or 0."""
        cdef EpShard *e
        cdef uint32_t w
        self._cell(cell)
        shares = []
        for w in range(self.workers):
            e = &self.rows_at()[w].e[cell]
            shares.append({
                "active": e.active, "connections": e.connections, "requests": e.requests, "failures": e.failures,
                "connects": e.connects,
            })
        total = {k: sum([s[k] for s in shares]) for k in shares[0]}
        return {**total, "workers": shares, "ejected": self.cells_at()[cell].ejected_until_ns, "tag": self.cells_at()[cell].tag}

    # --- telemetry

    def set_log(self, on: bool) -> None:
        """Whether workers write access-log records."""
        fm_store_release32(&self.hdr.log_on, 1 if on else 0)

    def worker_counters(self, i: int) -> dict[str, int]:
        cdef StatsRow *r = self.stats_at(self._row(i))
        return {name: fm_load_relaxed(&r.c[k]) for k, name in enumerate(COUNTER_NAMES)}

    def counters(self) -> dict[str, int]:
        """Summed over all workers."""
        rows = [self.worker_counters(i) for i in range(self.workers)]
        return {name: sum([row[name] for row in rows]) for name in COUNTER_NAMES}

    def series(self) -> list[dict]:
        """The metric series of all workers, merged by key. A histogram is [sum, bin, bin, ...]; bounds: the constants above.
        `grpc` is the gRPC status + 1, 0 for none; `endpoint` is a cell or None, `cluster` the id (see cluster_id) or 0; `overflow`: what did not find a slot of its own."""
        cdef SeriesTable *t
        cdef PeerTable *peers
        cdef Series *s
        cdef SeriesKey *k
        cdef uint32_t w, i, n
        merged = {}
        hists = ("duration", "upstream", "hop", "rx_bytes", "tx_bytes")
        for w in range(self.workers):
            t = self.series_at(w)
            peers = self.peers_at(w)
            n = min(fm_load_acquire32(&t.n), <uint32_t>SERIES_SLOTS - 1)
            for i in [*range(n), *([SERIES_SLOTS - 1] if fm_load_acquire32(&t.overflowed) else [])]:
                s = &t.s[i]
                k = &s.key
                overflow = i == SERIES_SLOTS - 1
                if k.peer == 0:
                    peer = ""
                elif k.peer >= PEER_SLOTS - 1:
                    peer = "overflow"
                else:
                    peer = text(peers.id[k.peer], PEER_BYTES).partition("\0")[0]
                key = (k.cluster, k.endpoint, k.flags, k.status, peer, k.direction, k.security, k.protocol, k.grpc, overflow)
                values = [
                    hist_list(&s.duration), hist_list(&s.upstream), hist_list(&s.hop), hist_list(&s.rx_bytes), hist_list(&s.tx_bytes)]
                known = merged.get(key)
                if known is None:
                    merged[key] = {
                        "cluster": k.cluster, "endpoint": None if k.endpoint == 0xffffffff else k.endpoint, "flags": k.flags,
                        "status": k.status, "peer": peer, "direction": k.direction, "security": k.security, "protocol": k.protocol,
                        "grpc": k.grpc, "overflow": overflow, "count": s.count, "opened": s.opened, **dict(zip(hists, values)),
                    }
                else:
                    known["count"] += s.count
                    known["opened"] += s.opened
                    for name, value in zip(hists, values):
                        known[name] = [a + b for a, b in zip(known[name], value)]
        return list(merged.values())

    def log_records(self, max: int) -> list[dict]:
        """Up to max access-log records, taken out of the workers' rings."""
        cdef char buf[RING_MAX_RECORD]
        cdef uint32_t w
        cdef int n
        found = []
        for w in range(self.workers):
            while len(found) < max:
                n = ring_get(self.ring_at(w), buf, RING_MAX_RECORD)
                if n == 0:
                    break
                if n > 0:
                    found.append(log_dict(buf, n))
        return found

    def arm(self) -> bool:
        """The agent is about to sleep on agent_fd: a worker that adds a record pokes it. False: there are records already."""
        cdef uint32_t w
        fm_store_release32(&self.hdr.agent_sleeping, 1)
        fm_fence()
        for w in range(self.workers):
            if not ring_empty(self.ring_at(w)):
                fm_store_release32(&self.hdr.agent_sleeping, 0)
                return False
        return True


cdef int segment_map(Segment seg, int slot, SegMap *out):
    cdef void *p
    if not seg.snaps_readonly:
        # for the rest of this process's life: a worker cannot write a config even by a wild pointer
        p = mmap(NULL, <size_t>SNAP_SLOTS * SNAP_SLOT_BYTES, PROT_READ, MAP_SHARED, seg.snap_fd, 0)
        if p == MAP_FAILED:
            return FM_ENOMEM
        munmap(seg.snaps, <size_t>SNAP_SLOTS * SNAP_SLOT_BYTES)
        seg.snaps = <char *>p
        seg.snaps_readonly = True
    out.hdr = seg.hdr
    out.slot = seg.slot_at(seg._row(slot))
    out.stats = seg.stats_at(slot)
    out.series = seg.series_at(slot)
    out.peers = seg.peers_at(slot)
    out.ring = seg.ring_at(slot)
    out.rows = seg.rows_at()
    out.cells = seg.cells_at()
    out.cluster_rows = seg.cluster_rows_at()
    out.cluster_cells = seg.cluster_cells_at()
    out.memos = <Memo *>(seg.base + seg.hdr.off_memos)
    out.buckets = <Bucket *>(seg.base + seg.hdr.off_buckets)
    out.snaps = seg.snaps
    out.workers = seg.workers
    out.self_row = slot
    out.wake_fd = seg.wake[slot]
    out.agent_fd = seg.agent_fd
    out.slot.pid = <uint32_t>getpid()
    return FM_OK


def cluster_id(name: str) -> int:
    """The stable id of a cluster (or listener) name, as metric series carry it."""
    raw = name.encode()
    return fnv64(raw, len(raw))
