"""Sockets (L2). See sock.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset, strlen
from fastmesh._core.base.sys cimport (
    AF_INET, AF_INET6, EINPROGRESS, EINTR, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SO_ERROR, SO_KEEPALIVE, SO_LINGER, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
    TCP_INFO, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY, accept4, close, connect, fm_errno, getsockname, getsockopt, htons, inet_ntop, ntohs, setsockopt, sockaddr, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socket, socklen_t, tcp_info)

cdef enum:
    ORIGINAL_DST = 80            # SO_ORIGINAL_DST of linux/netfilter_ipv4.h, IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h


cdef int sock_accept(int lfd, Addr *peer) noexcept nogil:
    cdef sockaddr_storage ss
    cdef socklen_t n = sizeof(ss)
    cdef int one = 1
    cdef int fd
    memset(peer, 0, sizeof(Addr))
    fd = accept4(lfd, <sockaddr *>&ss, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        return -fm_errno()
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    addr_take(&ss, peer)
    return fd


cdef void addr_take(const sockaddr_storage *ss, Addr *to) noexcept nogil:
    cdef const sockaddr_in *s4
    cdef const sockaddr_in6 *s6
    if ss.ss_family == AF_INET:
        s4 = <const sockaddr_in *>ss
        to.family = 4
        to.port = ntohs(s4.sin_port)
        memcpy(to.a, &s4.sin_addr, 4)
    elif ss.ss_family == AF_INET6:
        s6 = <const sockaddr_in6 *>ss
        to.port = ntohs(s6.sin6_port)
        memcpy(to.a, &s6.sin6_addr, 16)
        to.family = 6
        # an IPv4 client on a dual-stack listener: its IPv4 form is what people know
        if mapped(to.a):
            memcpy(to.a, to.a + 12, 4)
            to.family = 4


cdef void sock_local(int fd, Addr *out) noexcept nogil:
    cdef sockaddr_storage ss
    cdef socklen_t n = sizeof(ss)
    memset(out, 0, sizeof(Addr))
    if getsockname(fd, <sockaddr *>&ss, &n) == 0:
        addr_take(&ss, out)


cdef bint sock_original(int fd, Addr *out) noexcept nogil:
    cdef sockaddr_storage ss
    cdef socklen_t n = sizeof(ss)
    cdef Addr here
    memset(out, 0, sizeof(Addr))
    sock_local(fd, &here)
    if here.family == 0:
        return False
    memset(&ss, 0, sizeof(ss))
    if getsockopt(fd, IPPROTO_IP if here.family == 4 else IPPROTO_IPV6, ORIGINAL_DST, &ss, &n) != 0:
        return False             # the kernel tracks no connections, or not this one
    addr_take(&ss, out)
    if out.port == 0 or (out.family == here.family and out.port == here.port and memcmp(out.a, here.a, 16) == 0):
        out.family = 0
    return out.family != 0


cdef bint mapped(const uint8_t *a) noexcept nogil:
    cdef int i
    for i in range(10):
        if a[i]:
            return False
    return a[10] == 0xFF and a[11] == 0xFF


cdef int sock_connect(const Addr *to, int *done) noexcept nogil:
    cdef sockaddr_in s4
    cdef sockaddr_in6 s6
    cdef int one = 1
    cdef int rc, err
    cdef int fd = socket(AF_INET if to.family == 4 else AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    done[0] = 0
    if fd < 0:
        return -fm_errno()
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if to.family == 4:
        memset(&s4, 0, sizeof(s4))
        s4.sin_family = <unsigned short>AF_INET
        s4.sin_port = htons(to.port)
        memcpy(&s4.sin_addr, to.a, 4)
        rc = connect(fd, <sockaddr *>&s4, sizeof(s4))
    else:
        memset(&s6, 0, sizeof(s6))
        s6.sin6_family = <unsigned short>AF_INET6
        s6.sin6_port = htons(to.port)
        memcpy(&s6.sin6_addr, to.a, 16)
        rc = connect(fd, <sockaddr *>&s6, sizeof(s6))
    if rc == 0:
        done[0] = 1
        return fd
    err = fm_errno()
    if err == EINPROGRESS or err == EINTR:
        return fd
    close(fd)
    return -err


cdef int sock_error(int fd) noexcept nogil:
    cdef int err = 0
    cdef socklen_t n = sizeof(err)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0:
        return fm_errno()
    return err


cdef void sock_reset_on_close(int fd) noexcept nogil:
    cdef int v[2]
    v[0] = 1
    v[1] = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, v, sizeof(v))


cdef void sock_keepalive(int fd, int time_s, int interval_s, int probes) noexcept nogil:
    cdef int one = 1
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
    if time_s:
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &time_s, sizeof(time_s))
    if interval_s:
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s))
    if probes:
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes))


cdef uint64_t sock_bytes_acked(int fd) noexcept nogil:
    cdef tcp_info ti
    cdef socklen_t n = sizeof(ti)
    memset(&ti, 0, sizeof(ti))
    if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &n) != 0:
        return 0
    return ti.tcpi_bytes_acked


cdef uint32_t addr_text(const Addr *a, char *out, uint32_t cap, bint with_port) noexcept nogil:
    cdef uint32_t n = 0
    cdef uint32_t port = a.port
    cdef char digits[8]
    cdef int k = 0
    if cap < 64 or a.family == 0:
        return 0
    if a.family == 6 and with_port:
        out[0] = 91  # [
        n = 1
    if inet_ntop(AF_INET if a.family == 4 else AF_INET6, a.a, out + n, cap - n) == NULL:
        return 0
    n += <uint32_t>strlen(out + n)
    if not with_port:
        return n
    if a.family == 6:
        out[n] = 93  # ]
        n += 1
    out[n] = 58  # :
    n += 1
    while True:
        digits[k] = <char>(48 + port % 10)
        port //= 10
        k += 1
        if port == 0:
            break
    while k:
        k -= 1
        out[n] = digits[k]
        n += 1
    return n
