"""Conn (L2). See conn.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_free_all, block_grow, block_len, block_new, block_room
from fastmesh._core.base.err cimport FM_AGAIN, FM_EHEAD, FM_ENOMEM, FM_EOF, FM_ERESET, FM_ETLS, FM_OK, FM_WANT_WRITE
from fastmesh._core.base.pool cimport pool_get, pool_put
from fastmesh._core.base.sys cimport (
    EAGAIN, EINTR, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_PEEK, SHUT_WR, close, fm_errno, recv, shutdown)
from fastmesh._core.base.timer cimport timer_armed, timer_del, timer_set
from fastmesh._core.net.out cimport conn_flush, conn_write_out
from fastmesh._core.net.reactor cimport SCRATCH_BYTES, Reactor, Source, reactor_add, reactor_task
from fastmesh._core.net.sock cimport Addr, sock_bytes_acked, sock_connect, sock_error, sock_reset_on_close
from fastmesh._core.net.tls cimport tls_client, tls_free, tls_handshake, tls_read, tls_server, tls_shutdown, tls_wire_tx
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsPeer


# ---- new and free ----------------------------------------------------------------------------------------------------------------

cdef Conn *conn_new(Reactor *r, int fd, const ConnOps *ops, void *owner) noexcept nogil:
    cdef Conn *c = <Conn *>pool_get(&r.conns)
    if c == NULL:
        return NULL
    c.src.fn = conn_event
    c.src.fd = fd
    c.ops = ops
    c.owner = owner
    c.read_size = CONN_READ_MIN
    c.timer.fn = conn_timer
    c.timer.arg = c
    c.task.fn = conn_task
    c.task.arg = c
    r.nconns += 1
    if reactor_add(r, &c.src, EPOLLIN | EPOLLOUT | EPOLLRDHUP) != FM_OK:
        r.nconns -= 1
        pool_put(&r.conns, c)
        return NULL
    return c


cdef Conn *conn_accept(Reactor *r, int fd, const Addr *peer, TlsCtx **tls, uint32_t ntls, bint tls_required,
                       const ConnOps *ops, void *owner) noexcept nogil:
    cdef Conn *c = conn_new(r, fd, ops, owner)
    if c == NULL:
        close(fd)
        return NULL
    c.peer = peer[0]
    c.flags = CF_SERVER | (CF_TLS_REQUIRED if tls_required else 0)
    c.tls_ctxs = tls
    c.ntls = ntls
    c.state = CONN_SNIFF if ntls or tls_required else CONN_OPEN
    return c


cdef Conn *conn_dial(Reactor *r, const Addr *to, TlsCtx *tls, const char *sni, uint32_t sni_n, const TlsPeer *peer, uint64_t session,
                     const ConnOps *ops, void *owner, int *code) noexcept nogil:
    cdef int done = 0
    cdef Conn *c
    cdef int fd = sock_connect(to, &done)
    code[0] = FM_ERESET
    if fd < 0:
        return NULL
    c = conn_new(r, fd, ops, owner)
    if c == NULL:
        close(fd)
        code[0] = FM_ENOMEM
        return NULL
    c.peer = to[0]
    c.state = CONN_CONNECTING
    if tls != NULL:
        c.tls = tls_client(tls, fd, sni, sni_n, peer, session)
        if c.tls == NULL:
            conn_close(c)
            code[0] = FM_ENOMEM
            return NULL
    code[0] = FM_OK
    # connected or not, the socket's first EPOLLOUT edge goes on from here
    return c


cdef void conn_close(Conn *c) noexcept nogil:
    cdef Reactor *r = c.src.r
    if c.state == CONN_CLOSED:
        return
    if c.tls != NULL:
        if c.state == CONN_OPEN and not c.flags & CF_HUP:
            tls_shutdown(c.tls)
        tls_free(c.tls)
        c.tls = NULL
    close(c.src.fd)              # also takes it out of epoll
    c.src.fd = -1
    timer_del(&r.wheel, &c.timer)
    block_free(&r.bufs, c.inb)
    block_free_all(&r.bufs, c.out_head)
    c.inb = NULL
    c.out_head = NULL
    c.out_tail = NULL
    c.out_n = 0
    if r.g.conn == c:
        r.g.conn = NULL
        r.g.n = 0
        r.g.used = 0
        r.g.bytes = 0
    c.state = CONN_CLOSED
    c.owner = NULL
    c.next_dead = <Conn *>r.dead
    r.dead = c
    r.nconns -= 1


cdef void conn_abort(Conn *c) noexcept nogil:
    if c.state == CONN_CLOSED:
        return
    sock_reset_on_close(c.src.fd)
    c.flags |= CF_HUP            # no close_notify: that would say that all is well
    conn_close(c)


cdef void conn_reap(Reactor *r) noexcept nogil:
    # a connection whose task is still queued waits for it: the task list holds its address
    cdef Conn *c = <Conn *>r.dead
    cdef Conn *nxt
    r.dead = NULL
    while c != NULL:
        nxt = c.next_dead
        if c.task.queued:
            c.next_dead = <Conn *>r.dead
            r.dead = c
        else:
            pool_put(&r.conns, c)
        c = nxt


# ---- events ----------------------------------------------------------------------------------------------------------------------

cdef void conn_event(Source *s, uint32_t events) noexcept nogil:
    cdef Conn *c = <Conn *>s
    cdef uint64_t waiting
    if c.state == CONN_CLOSED:
        return
    if events & EPOLLOUT and c.flags & CF_READ_BLOCKED:
        c.flags = (c.flags & ~<uint32_t>CF_READ_BLOCKED) | CF_READABLE
        events |= EPOLLIN        # TLS had to write before it could read on
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        c.flags |= CF_READABLE
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        c.flags |= CF_HUP
    if c.state == CONN_OPEN:
        if events & EPOLLOUT:
            waiting = c.out_n
            conn_write_out(c)
            if c.flags & CF_CLOSE_FLUSHED:
                if c.out_n == 0:
                    conn_finish(c)
                elif c.out_n < waiting:
                    conn_deadline(c, c.src.r.now_ms + CONN_UNREAD_MS)
            if c.state != CONN_OPEN:
                return
            if c.flags & CF_FIN and c.out_n == 0:
                conn_fin(c)
            # also when a flush in between has emptied the queue: this edge is the last there is
            if c.out_n == 0 and c.flags & CF_BLOCKED and not c.flags & CF_FIN and c.owner != NULL:
                c.flags &= ~<uint32_t>CF_BLOCKED
                c.ops.drained(c)
                if c.state != CONN_OPEN:
                    return
        if c.flags & CF_READABLE and c.owner != NULL and events & ~<uint32_t>EPOLLOUT:
            c.ops.readable(c)
        elif c.owner == NULL and events & (EPOLLHUP | EPOLLERR):
            conn_close(c)        # nobody to tell: it was only being flushed
    elif c.state == CONN_LINGER:
        conn_discard(c)
    else:
        conn_begin(c, events)


cdef void conn_begin(Conn *c, uint32_t events) noexcept nogil:
    # CONNECTING -> HANDSHAKE -> OPEN, or SNIFF -> (HANDSHAKE ->) OPEN
    cdef char first
    cdef int rc
    if c.state == CONN_CONNECTING:
        if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            return
        if sock_error(c.src.fd) != 0 or events & (EPOLLERR | EPOLLHUP):
            c.ops.failed(c, FM_ERESET)
            return
        c.state = CONN_HANDSHAKE if c.tls != NULL else CONN_OPEN
        if c.tls == NULL:
            c.ops.ready(c)
            return
    if c.state == CONN_SNIFF:
        if not c.flags & CF_READABLE:
            return
        rc = <int>recv(c.src.fd, &first, 1, MSG_PEEK)
        if rc <= 0:
            if rc < 0 and (fm_errno() == EAGAIN or fm_errno() == EINTR):
                return
            c.ops.failed(c, FM_EOF)
            return
        if first == 0x16 and c.ntls and c.tls_ctxs[0] != NULL:  # a TLS handshake record; no HTTP request begins with it
            # the config may have changed since it was accepted: what stands there now counts
            while c.ntls > 1 and c.tls_ctxs[c.ntls - 1] == NULL:
                c.ntls -= 1
            c.tls = tls_server(c.tls_ctxs, c.ntls, c.src.fd)
            if c.tls == NULL:
                c.ops.failed(c, FM_ENOMEM)
                return
            c.state = CONN_HANDSHAKE
        elif c.flags & CF_TLS_REQUIRED:
            c.ops.failed(c, FM_ETLS)
            return
        else:
            c.state = CONN_OPEN
            c.ops.ready(c)
            return
    if c.state == CONN_HANDSHAKE:
        rc = tls_handshake(c.tls)
        if rc == FM_OK:
            c.state = CONN_OPEN
            c.flags |= CF_READABLE   # bytes may have come with the last flight
            c.ops.ready(c)
        elif rc != FM_AGAIN and rc != FM_WANT_WRITE:
            c.tls_failure = <uint8_t>(-rc)
            c.ops.failed(c, rc)


cdef void conn_task(void *arg) noexcept nogil:
    cdef Conn *c = <Conn *>arg
    if c.state == CONN_CLOSED:
        return
    if c.fail_code != 0:
        if c.owner != NULL:
            c.ops.failed(c, c.fail_code)
        else:
            conn_close(c)
    elif c.owner != NULL and c.state == CONN_OPEN:
        c.ops.readable(c)


cdef void conn_wake(Conn *c) noexcept nogil:
    if c.state != CONN_CLOSED:
        reactor_task(c.src.r, &c.task)


cdef void conn_timer(void *arg, uint64_t now_ms) noexcept nogil:
    cdef Conn *c = <Conn *>arg
    if c.state == CONN_CLOSED or c.deadline_ms == 0:
        return
    if now_ms < c.deadline_ms:
        timer_set(&c.src.r.wheel, &c.timer, c.deadline_ms)
    elif c.owner == NULL or c.state == CONN_LINGER:
        conn_close(c)
    else:
        c.deadline_ms = 0
        c.ops.expired(c)


cdef void conn_deadline(Conn *c, uint64_t when_ms) noexcept nogil:
    c.deadline_ms = when_ms
    # moved later: the timer finds out when it fires; moved earlier: it has to be armed anew
    if when_ms and (not timer_armed(&c.timer) or (c.timer.when << 2) > when_ms + 4):
        timer_set(&c.src.r.wheel, &c.timer, when_ms)


# ---- reading ---------------------------------------------------------------------------------------------------------------------

cdef int conn_read(Conn *c, char *p, uint32_t n) noexcept nogil:
    cdef ssize_t k
    if c.flags & CF_EOF:
        return FM_EOF
    if c.tls != NULL:
        k = tls_read(c.tls, p, n)
        if k == FM_AGAIN or k == FM_WANT_WRITE:
            c.flags &= ~<uint32_t>CF_READABLE
            if k == FM_WANT_WRITE:
                c.flags |= CF_READ_BLOCKED
            k = FM_AGAIN
        elif k == FM_EOF:
            c.flags |= CF_EOF
        elif k > 0:
            c.rx += k
            c.src.r.rx += k
            if k < n and not c.flags & CF_HUP:  # tls_read fills what it can: a short one has drained the socket
                c.flags &= ~<uint32_t>CF_READABLE
        return <int>k
    while True:
        k = recv(c.src.fd, p, n, 0)
        if k > 0:
            c.rx += k
            c.src.r.rx += k
            # a short read has drained the socket; with CF_HUP the end is still to be read
            if k < n and not c.flags & CF_HUP:
                c.flags &= ~<uint32_t>CF_READABLE
            return <int>k
        if k == 0:
            c.flags |= CF_EOF
            return FM_EOF
        if fm_errno() == EINTR:
            continue
        c.flags &= ~<uint32_t>CF_READABLE
        return FM_AGAIN if fm_errno() == EAGAIN else FM_ERESET


cdef bint conn_said_all(Conn *c) noexcept nogil:
    cdef char probe
    cdef int rc
    if c.tls == NULL:
        return recv(c.src.fd, &probe, 1, MSG_PEEK) <= 0
    rc = conn_read(c, c.src.r.scratch, CONN_READ_MIN)  # what waits in the socket may be its close_notify alone
    if rc > 0:
        return conn_keep(c, c.src.r.scratch, <uint32_t>rc) != FM_OK
    return rc != FM_AGAIN


cdef int conn_keep(Conn *c, const char *p, uint32_t n) noexcept nogil:
    cdef Block *b = c.inb
    cdef Block *g
    if n == 0:
        return FM_OK
    if b == NULL:
        b = block_new(&c.src.r.bufs, n)
        if b == NULL:
            return FM_ENOMEM
        c.inb = b
    elif block_room(b) < n and b.start:
        memmove(block_data(b), block_data(b) + b.start, block_len(b))
        b.end -= b.start
        b.start = 0
    while block_room(b) < n:
        g = block_grow(&c.src.r.bufs, b)
        if g == NULL:
            return FM_ENOMEM
        b = g
        c.inb = b
    memcpy(block_data(b) + b.end, p, n)
    b.end += n
    return FM_OK


cdef void conn_kept_used(Conn *c, uint32_t n) noexcept nogil:
    if c.inb == NULL:
        return
    c.inb.start += n
    if c.inb.start >= c.inb.end:
        block_free(&c.src.r.bufs, c.inb)
        c.inb = NULL


cdef int conn_read_more(Conn *c, uint32_t most) noexcept nogil:
    cdef Block *b = c.inb
    cdef Block *g
    cdef int k
    if b.start:
        memmove(block_data(b), block_data(b) + b.start, block_len(b))
        b.end -= b.start
        b.start = 0
    if block_room(b) == 0:
        if b.end >= most:
            return FM_EHEAD
        g = block_grow(&c.src.r.bufs, b)
        if g == NULL:
            return FM_ENOMEM
        b = g
        c.inb = b
    k = conn_read(c, block_data(b) + b.end, block_room(b))
    if k > 0:
        b.end += k
    return k


# ---- the end ---------------------------------------------------------------------------------------------------------------------

cdef void conn_fin(Conn *c) noexcept nogil:
    if c.tls != NULL and tls_shutdown(c.tls) == FM_WANT_WRITE:
        c.flags |= CF_FIN        # behind a socket that is full: a bare FIN would say that something is missing
        return
    c.flags &= ~<uint32_t>CF_FIN
    shutdown(c.src.fd, SHUT_WR)


cdef void conn_end_output(Conn *c) noexcept nogil:
    if c.src.r.g.conn == c:
        conn_flush(c)
    if c.state != CONN_OPEN or c.fail_code != 0:
        return
    if c.out_n == 0:
        conn_fin(c)
    else:
        c.flags |= CF_FIN


cdef void conn_finish(Conn *c) noexcept nogil:
    # all is sent
    if c.flags & CF_EOF or not c.flags & (CF_LINGER | CF_READABLE):
        conn_close(c)
        return
    if c.tls != NULL:
        tls_shutdown(c.tls)
    shutdown(c.src.fd, SHUT_WR)
    c.state = CONN_LINGER
    c.rx = 0
    conn_deadline(c, c.src.r.now_ms + CONN_LINGER_MS)
    if c.flags & CF_READABLE:
        conn_discard(c)


cdef void conn_discard(Conn *c) noexcept nogil:
    # read on, so that the answer is not lost to a RST; bounded in bytes and time
    cdef ssize_t k
    while True:
        k = recv(c.src.fd, c.src.r.scratch, SCRATCH_BYTES, 0)
        if k < 0 and fm_errno() == EAGAIN:
            return
        if k > 0:
            c.rx += k
        if k <= 0 or c.rx > CONN_LINGER_BYTES:
            conn_close(c)
            return


cdef void conn_close_flushed(Conn *c, bint linger) noexcept nogil:
    if c.state == CONN_CLOSED:
        return
    if c.src.r.g.conn == c:
        conn_flush(c)
    c.owner = NULL
    c.flags |= CF_CLOSE_FLUSHED | (CF_LINGER if linger else 0)
    if c.fail_code != 0 or c.state != CONN_OPEN:
        conn_close(c)
    elif c.out_n == 0:
        conn_finish(c)
    else:
        # an unread answer is not kept for ever; each part that the peer takes renews it
        conn_deadline(c, c.src.r.now_ms + CONN_UNREAD_MS)


cdef uint64_t conn_wire_tx(const Conn *c) noexcept nogil:
    return tls_wire_tx(c.tls) if c.tls != NULL else c.wire_tx


cdef bint conn_acked_none_since(const Conn *c, uint64_t wire_tx) noexcept nogil:
    cdef uint64_t acked
    if c.state == CONN_CLOSED:
        return False
    acked = sock_bytes_acked(c.src.fd)
    # the kernel counts the SYN as one byte
    return acked != 0 and acked <= wire_tx + 1
