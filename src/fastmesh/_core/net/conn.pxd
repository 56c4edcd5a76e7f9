"""Conn (L2): one connection, plain or TLS: its bytes in and out, its deadline, its end. It knows nothing of HTTP.

Reading: the owner calls conn_read into the reactor's scratch; what it cannot use yet it keeps with conn_keep.
Writing is net/out. Nothing here calls the owner back from inside of a write: a write error is told at the end of the turn.
A closed Conn stays readable memory until the end of the turn.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastmesh._core.base.buf cimport Block
from fastmesh._core.base.timer cimport Timer
from fastmesh._core.net.reactor cimport Reactor, Source, Task
from fastmesh._core.net.sock cimport Addr
from fastmesh._core.net.tls cimport Tls
from fastmesh._core.net.tls_ctx cimport TlsCtx, TlsPeer

cdef enum:  # Conn.state
    CONN_CONNECTING = 1
    CONN_SNIFF                   # server side, before the first byte: TLS or not
    CONN_HANDSHAKE
    CONN_OPEN
    CONN_LINGER                  # answered and shut down for sending: what still comes is thrown away
    CONN_CLOSED                  # freed at the end of the turn

cdef enum:  # Conn.flags
    CF_READABLE = 1              # the socket may have bytes: an edge was seen and not drained
    CF_HUP = 2                   # the peer has closed its side or the connection is dead
    CF_CLOSE_FLUSHED = 4         # close when the out queue is empty
    CF_LINGER = 8                # ... and only after the peer has closed too (bounded)
    CF_BLOCKED = 16              # the owner wants ops.drained when the out queue is empty
    CF_SERVER = 32
    CF_EOF = 64                  # end of input was read
    CF_TLS_REQUIRED = 128        # server side: plaintext is refused
    CF_FIN = 512                 # no more will be sent: FIN when the out queue is empty
    CF_READ_BLOCKED = 256        # TLS: cannot read on before the socket is writable

cdef enum:
    CONN_READ_MIN = 16384
    CONN_READS_AT_ONCE = 16      # reads for one connection (256 KiB each at most) before the others are served
    CONN_LINGER_MS = 2000
    CONN_LINGER_BYTES = 1048576
    CONN_UNREAD_MS = 60000       # how long a peer may take nothing of what is left to send before the close

cdef struct ConnOps:
    void (*ready)(Conn *c) noexcept nogil            # connected, handshake done
    void (*readable)(Conn *c) noexcept nogil         # bytes, end of input or CF_HUP
    void (*drained)(Conn *c) noexcept nogil          # the out queue is empty again (after CF_BLOCKED)
    void (*failed)(Conn *c, int code) noexcept nogil # dead: the owner lets go and calls conn_close
    void (*expired)(Conn *c) noexcept nogil          # the deadline has passed

cdef struct Conn:
    Source src
    uint8_t state
    uint8_t tls_failure          # FM_ETLS* of the handshake, negated
    uint16_t reserved
    uint32_t flags
    void *owner
    const ConnOps *ops
    Tls *tls
    TlsCtx **tls_ctxs            # server side: the listener's contexts (borrowed from the worker)
    uint32_t ntls
    uint32_t read_size
    Block *inb                   # input kept for later
    Block *out_head              # out queue
    Block *out_tail
    uint64_t out_n
    uint64_t rx, tx              # bytes of the application (inside TLS)
    uint64_t wire_tx             # bytes given to the socket (plain connections)
    uint64_t deadline_ms         # 0: none
    uint64_t wrote_ms            # when the socket last took something of the out queue
    Timer timer
    Task task                    # owner's wake-up or the report of a write error
    Addr peer
    Addr called                  # server side: whom the client dialled, when that was not this listener (sock_original); family 0: it was
    int fail_code
    Conn *next_dead

cdef Conn *conn_accept(Reactor *r, int fd, const Addr *peer, TlsCtx **tls, uint32_t ntls, bint tls_required,
                       const ConnOps *ops, void *owner) noexcept nogil
"""A server-side connection on an accepted fd; NULL at a cap (fd is closed). ops.ready comes once bytes are there and TLS, if any, is up."""
cdef Conn *conn_dial(Reactor *r, const Addr *to, TlsCtx *tls, const char *sni, uint32_t sni_n, const TlsPeer *peer, uint64_t session,
                     const ConnOps *ops, void *owner, int *code) noexcept nogil
"""A connecting client side, or NULL with *code. ops.ready comes when it is usable, possibly only in a later turn; never from inside."""
cdef int conn_read(Conn *c, char *p, uint32_t n) noexcept nogil
"""Bytes, FM_AGAIN (CF_READABLE is taken off), FM_EOF (CF_EOF is set), FM_ERESET or FM_ETLS*."""
cdef bint conn_said_all(Conn *c) noexcept nogil
"""Of a peer that has closed its side (CF_HUP): is there nothing more to read? Plain bytes stay where they are; TLS has to read, and what it
finds is kept. Uses the scratch; only while nothing is kept."""
cdef int conn_keep(Conn *c, const char *p, uint32_t n) noexcept nogil
"""Keep n unused bytes for later, behind those kept already; FM_OK or FM_ENOMEM."""
cdef void conn_kept_used(Conn *c, uint32_t n) noexcept nogil
"""n kept bytes are used; the block goes back when it is empty."""
cdef int conn_read_more(Conn *c, uint32_t most) noexcept nogil
"""Read behind the kept bytes (growing up to `most` in all): bytes, or codes as conn_read, FM_EHEAD when full."""
cdef void conn_deadline(Conn *c, uint64_t when_ms) noexcept nogil
"""ops.expired at when_ms (0: never). Cheap to move later."""
cdef void conn_wake(Conn *c) noexcept nogil
"""ops.readable at the end of this turn."""
cdef void conn_close(Conn *c) noexcept nogil
"""Now; unsent bytes are lost. No callback comes after it."""
cdef void conn_close_flushed(Conn *c, bint linger) noexcept nogil
"""When all is sent. No callback but the end comes after it: the owner lets go of the connection (owner becomes NULL)."""
cdef void conn_end_output(Conn *c) noexcept nogil
"""No more will be sent: FIN (with TLS: close_notify before it) behind what waits; input goes on."""
cdef void conn_abort(Conn *c) noexcept nogil
"""Close with RST: the peer must see that it did not get everything."""
cdef void conn_reap(Reactor *r) noexcept nogil
"""At the end of a turn: free what was closed."""
cdef bint conn_acked_none_since(const Conn *c, uint64_t wire_tx) noexcept nogil
"""True when the kernel knows that nothing sent after the first wire_tx bytes has reached the peer."""
cdef uint64_t conn_wire_tx(const Conn *c) noexcept nogil
"""Bytes that the socket has taken, ciphertext with TLS."""
