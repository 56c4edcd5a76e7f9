"""Sockets (L2): accept, connect, options, addresses. No state."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Addr:                # 20 bytes
    uint8_t family               # 0 none, 4, 6
    uint8_t reserved
    uint16_t port                # host order
    uint8_t a[16]                # network order; 4: the first four

cdef int sock_accept(int lfd, Addr *peer) noexcept nogil
"""A non-blocking connection with TCP_NODELAY, or -errno."""
cdef void sock_keepalive(int fd, int time_s, int interval_s, int probes) noexcept nogil
"""TCP keep-alive on; 0: the system's value."""
cdef int sock_connect(const Addr *to, int *done) noexcept nogil
"""A non-blocking socket that is connecting, or -errno; *done: it is connected already."""
cdef int sock_error(int fd) noexcept nogil
"""SO_ERROR."""
cdef void sock_reset_on_close(int fd) noexcept nogil
"""close() sends RST: the peer must not take what it has for the whole."""
cdef uint64_t sock_bytes_acked(int fd) noexcept nogil
"""tcpi_bytes_acked: how much of what was sent has reached the peer's kernel; 0 when the kernel does not say."""
cdef uint32_t addr_text(const Addr *a, char *out, uint32_t cap, bint with_port) noexcept nogil
"""'127.0.0.1:80' or '[::1]:80'; cap at least 64."""
cdef void sock_local(int fd, Addr *out) noexcept nogil
"""Our side's address; family 0 when the kernel does not say."""
cdef bint sock_original(int fd, Addr *out) noexcept nogil
"""Whom the client of an accepted connection dialled, when that was not us: a rule of the packet filter has redirected it to this socket
(SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST). False, and family 0: it came as it was dialled."""
