"""What a connection has to send (L2). See out.pxd."""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from fastmesh._core.base.buf cimport Block, block_data, block_free, block_len, block_new, block_room
from fastmesh._core.base.err cimport FM_AGAIN, FM_ENOMEM, FM_ERESET, FM_OK, FM_WANT_WRITE
from fastmesh._core.base.sys cimport EAGAIN, EINTR, MSG_NOSIGNAL, fm_errno, iovec, msghdr, send, sendmsg
from fastmesh._core.net.conn cimport CONN_CLOSED, CONN_OPEN, Conn
from fastmesh._core.net.reactor cimport GATHER_BYTES, GATHER_IOV, Gather, reactor_task
from fastmesh._core.net.tls cimport TLS_RECORD, tls_write

cdef enum:
    TLS_PIECE = 8192             # pieces below this are put together
    TLS_OFFER = 49152            # at most this much in one tls_write: what it holds back must fit into one block of the out queue
    OUT_BLOCK = 65000            # the out queue grows in blocks of 64 KiB when there is much, 4 or 16 KiB when little


cdef void conn_put(Conn *c, const char *p, size_t n) noexcept nogil:
    cdef Gather *g = &c.src.r.g
    cdef iovec *last
    if n == 0 or c.state == CONN_CLOSED:
        return
    if g.conn != c or g.n == GATHER_IOV:
        if g.conn != NULL:
            conn_flush(<Conn *>g.conn)
        g.conn = c
    if g.n:
        last = &g.v[g.n - 1]
        if <const char *>last.iov_base + last.iov_len == p:
            last.iov_len += n
            g.bytes += n
            return
    g.v[g.n].iov_base = <void *>p
    g.v[g.n].iov_len = n
    g.n += 1
    g.bytes += n


cdef char *conn_make(Conn *c, uint32_t n) noexcept nogil:
    cdef Gather *g = &c.src.r.g
    if g.conn != c or g.used + n > GATHER_BYTES or g.n == GATHER_IOV:
        if g.conn != NULL:
            conn_flush(<Conn *>g.conn)
        g.conn = c
    if n > GATHER_BYTES:
        return NULL
    return g.buf + g.used


cdef void conn_made(Conn *c, uint32_t n) noexcept nogil:
    cdef Gather *g = &c.src.r.g
    cdef char *p = g.buf + g.used
    g.used += n
    conn_put(c, p, n)


cdef int queue_bytes(Conn *c, const char *p, size_t n, size_t hint) noexcept nogil:
    # `hint`: what is to come in all. A TLS record that was begun must be offered again whole: it may not straddle two blocks.
    cdef Block *b = c.out_tail
    cdef uint32_t k
    while n:
        if b == NULL or block_room(b) == 0:
            b = block_new(&c.src.r.bufs, <uint32_t>hint if hint < OUT_BLOCK else OUT_BLOCK)
            if b == NULL:
                return FM_ENOMEM
            if c.out_tail == NULL:
                c.out_head = b
            else:
                c.out_tail.next = b
            c.out_tail = b
        k = block_room(b)
        if k > n:
            k = <uint32_t>n
        memcpy(block_data(b) + b.end, p, k)
        b.end += k
        p += k
        n -= k
        hint -= k
        c.out_n += k
    return FM_OK


cdef void conn_broken(Conn *c, int code) noexcept nogil:
    if c.fail_code == 0:
        c.fail_code = code
        reactor_task(c.src.r, &c.task)


cdef void conn_flush(Conn *c) noexcept nogil:
    cdef Gather *g = &c.src.r.g
    cdef ssize_t k = 0
    cdef bint blocked = False
    cdef size_t skip, left
    cdef uint32_t i
    if g.conn != c:
        return
    if g.n == 0 or c.fail_code != 0:
        k = g.bytes
    elif c.state == CONN_OPEN and c.out_n == 0:
        if c.tls != NULL:
            k = flush_tls(c, g, &blocked)
        else:
            k = send_plain(c, g.v, g.n)
        if k < 0:
            conn_broken(c, FM_ERESET)
            k = g.bytes
        else:
            c.tx += k
            c.src.r.tx += k
    skip = <size_t>k
    if skip < g.bytes:
        left = g.bytes - skip
        for i in range(g.n):
            if skip >= g.v[i].iov_len:
                skip -= g.v[i].iov_len
                continue
            if queue_bytes(c, <const char *>g.v[i].iov_base + skip, g.v[i].iov_len - skip, left) != FM_OK:
                conn_broken(c, FM_ENOMEM)
                break
            left -= g.v[i].iov_len - skip
            skip = 0
    g.n = 0
    g.used = 0
    g.bytes = 0
    g.conn = NULL
    if c.out_n and c.tls != NULL and c.state == CONN_OPEN and not c.fail_code and not blocked:
        conn_write_out(c)


cdef void conn_give(Conn *c, Block *chain) noexcept nogil:
    cdef bint waits
    cdef Block *b
    if c.src.r.g.conn == c:
        conn_flush(c)
    waits = c.out_n != 0
    while chain != NULL:
        b = chain
        chain = b.next
        b.next = NULL
        if block_len(b) == 0 or c.state == CONN_CLOSED or c.fail_code != 0:
            block_free(&c.src.r.bufs, b)
            continue
        if c.out_tail == NULL:
            c.out_head = b
        else:
            c.out_tail.next = b
        c.out_tail = b
        c.out_n += block_len(b)
    if c.out_n and not waits and c.state == CONN_OPEN:
        conn_write_out(c)


cdef ssize_t send_plain(Conn *c, iovec *v, uint32_t n) noexcept nogil:
    # bytes sent (0: the socket is full), or FM_ERESET
    cdef msghdr m
    cdef ssize_t k
    m.msg_name = NULL
    m.msg_namelen = 0
    m.msg_iov = v
    m.msg_iovlen = n
    m.msg_control = NULL
    m.msg_controllen = 0
    m.msg_flags = 0
    while True:
        k = send(c.src.fd, v[0].iov_base, v[0].iov_len, MSG_NOSIGNAL) if n == 1 else sendmsg(c.src.fd, &m, MSG_NOSIGNAL)
        if k >= 0:
            c.wire_tx += k
            return k
        if fm_errno() == EINTR:
            continue
        return 0 if fm_errno() == EAGAIN else FM_ERESET


cdef ssize_t flush_tls(Conn *c, Gather *g, bint *blocked) noexcept nogil:
    # Plaintext bytes taken, or FM_ERESET. Small pieces are put together behind what was made in the gather buffer, so that a head and
    # a short body are one record; large ones go as they are. What is left has to be offered again from its first byte: the queue does.
    cdef char *scratch = g.buf + g.used
    cdef size_t room = GATHER_BYTES - g.used
    cdef size_t total = 0
    cdef size_t off = 0          # within g.v[i]
    cdef size_t at, take
    cdef uint32_t i = 0
    cdef const char *p
    cdef int k
    if room > TLS_RECORD:
        room = TLS_RECORD
    while i < g.n:
        take = g.v[i].iov_len - off
        if take >= TLS_PIECE or i + 1 == g.n:
            p = <const char *>g.v[i].iov_base + off
            at = take if take < TLS_OFFER else TLS_OFFER
        else:
            at = 0
            p = scratch
            while i < g.n and at < room:
                take = g.v[i].iov_len - off
                if take > room - at:
                    take = room - at
                memcpy(scratch + at, <char *>g.v[i].iov_base + off, take)
                at += take
                off += take
                if off == g.v[i].iov_len:
                    i += 1
                    off = 0
            if at == 0:
                return total     # no room to put pieces together: through the queue
            k = tls_write(c.tls, p, <uint32_t>at)
            if k > 0:
                total += k
            if k != <int>at:
                blocked[0] = k > 0 or k == FM_AGAIN or k == FM_WANT_WRITE
                return total if blocked[0] else FM_ERESET
            continue
        k = tls_write(c.tls, p, <uint32_t>at)
        if k <= 0:
            blocked[0] = k == FM_AGAIN or k == FM_WANT_WRITE
            return total if blocked[0] else FM_ERESET
        total += k
        off += k
        if off == g.v[i].iov_len:
            i += 1
            off = 0
    return total


cdef void conn_write_out(Conn *c) noexcept nogil:
    cdef iovec v[64]
    cdef uint32_t n
    cdef Block *b
    cdef ssize_t k
    while c.out_n:
        b = c.out_head
        if c.tls != NULL:
            k = tls_write(c.tls, block_data(b) + b.start, block_len(b))
            if k == FM_AGAIN or k == FM_WANT_WRITE:
                return
        else:
            n = 0
            while b != NULL and n < 64:
                v[n].iov_base = block_data(b) + b.start
                v[n].iov_len = block_len(b)
                n += 1
                b = b.next
            k = send_plain(c, v, n)
            if k == 0:
                return
        if k < 0:
            conn_broken(c, FM_ERESET)
            return
        c.tx += k
        c.src.r.tx += k
        c.out_n -= k
        c.wrote_ms = c.src.r.now_ms
        while k:
            b = c.out_head
            n = block_len(b)
            if k < n:
                b.start += <uint32_t>k
                break
            k -= n
            c.out_head = b.next
            if c.out_head == NULL:
                c.out_tail = NULL
            block_free(&c.src.r.bufs, b)
