"""Every libc, socket, epoll and atomics extern of `_core` (L0). Nothing else includes a system header."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <sys/prctl.h>
    #include <sys/random.h>
    #include <arpa/inet.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/mman.h>
    #include <sys/signalfd.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <sys/un.h>
    #include <time.h>
    #include <unistd.h>
    #include <linux/tcp.h>

    #define fm_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define fm_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define fm_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define fm_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define fm_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
    static inline int fm_cas64(uint64_t *p, uint64_t want, uint64_t to) {
        return __atomic_compare_exchange_n(p, &want, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline int fm_cas32(uint32_t *p, uint32_t want, uint32_t to) {
        return __atomic_compare_exchange_n(p, &want, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline int fm_errno(void) { return errno; }
    /* nanoseconds of CLOCK_MONOTONIC */
    static inline uint64_t fm_clock_ns(void) {
        struct timespec ts; clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
    }
    /* now as an IMF-fixdate (RFC 9110 5.6.7), 29 characters and NUL, in the C locale whatever the process's is */
    static inline void time_gmt(char *out, size_t cap) {
        static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
        static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
        time_t t = time(NULL); struct tm v; gmtime_r(&t, &v);
        snprintf(out, cap, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[v.tm_wday], v.tm_mday, months[v.tm_mon], v.tm_year + 1900,
                 v.tm_hour, v.tm_min, v.tm_sec);
    }
    /* every signal that can be blocked and does not tell of a fault in this very process */
    static inline void block_signals(void) {
        sigset_t s; sigfillset(&s);
        sigdelset(&s, SIGSEGV); sigdelset(&s, SIGBUS); sigdelset(&s, SIGABRT); sigdelset(&s, SIGFPE); sigdelset(&s, SIGILL);
        sigprocmask(SIG_BLOCK, &s, NULL);
    }
    /* nanoseconds of CLOCK_REALTIME */
    static inline uint64_t fm_wall_ns(void) {
        struct timespec ts; clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
    }
    /* a layout that other processes read: checked by the C compiler, bump LAYOUT_VERSION when it changes */
    #define FM_STATIC_ASSERT(x) _Static_assert((x), "shared layout changed: bump LAYOUT_VERSION")
    #define fm_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define fm_likely(x) __builtin_expect(!!(x), 1)
    #define fm_unlikely(x) __builtin_expect(!!(x), 0)
    /* make asan: what lies in a pool is as forbidden as what was freed */
    #if defined(__SANITIZE_ADDRESS__)
    #include <sanitizer/asan_interface.h>
    #define fm_poison(p, n) ASAN_POISON_MEMORY_REGION((p), (n))
    #define fm_unpoison(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
    #else
    #define fm_poison(p, n) ((void)(p))
    #define fm_unpoison(p, n) ((void)(p))
    #endif
    """
    uint64_t fm_load_acquire(const uint64_t *p) nogil
    uint64_t fm_load_relaxed(const uint64_t *p) nogil
    uint32_t fm_load_acquire32 "fm_load_acquire" (const uint32_t *p) nogil
    uint32_t fm_load_relaxed32 "fm_load_relaxed" (const uint32_t *p) nogil
    void fm_store_release(uint64_t *p, uint64_t v) nogil
    void fm_store_relaxed(uint64_t *p, uint64_t v) nogil
    void fm_store_release32 "fm_store_release" (uint32_t *p, uint32_t v) nogil
    void fm_store_relaxed32 "fm_store_relaxed" (uint32_t *p, uint32_t v) nogil
    uint64_t fm_add_relaxed(uint64_t *p, uint64_t v) nogil
    uint32_t fm_add_relaxed32 "fm_add_relaxed" (uint32_t *p, uint32_t v) nogil
    int fm_cas64(uint64_t *p, uint64_t want, uint64_t to) nogil
    int fm_cas32(uint32_t *p, uint32_t want, uint32_t to) nogil
    int fm_errno() nogil
    uint64_t fm_clock_ns() nogil
    uint64_t fm_wall_ns() nogil
    void block_signals() nogil
    void time_gmt(char *out, size_t cap) nogil
    void fm_fence() nogil
    void FM_STATIC_ASSERT(bint x) nogil
    bint fm_likely(bint x) nogil
    bint fm_unlikely(bint x) nogil
    void fm_poison(void *p, size_t n) nogil
    void fm_unpoison(void *p, size_t n) nogil

    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t
    struct sockaddr:
        sa_family_t sa_family
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    struct sockaddr_storage:
        sa_family_t ss_family
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    struct tcp_info:
        uint8_t tcpi_state
        uint32_t tcpi_unacked
        uint64_t tcpi_bytes_acked
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    ctypedef struct sigset_t:
        pass

    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP
    int SO_ERROR, SO_KEEPALIVE, SO_LINGER, SO_REUSEADDR, TCP_NODELAY, TCP_INFO, TCP_QUICKACK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, MSG_NOSIGNAL, MSG_DONTWAIT, MSG_PEEK, SHUT_WR, SHUT_RDWR
    int EAGAIN, EINTR, EINPROGRESS, ECONNRESET, EPIPE, EMFILE, ENFILE, ENOMEM, ECONNABORTED
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED
    int SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIG_BLOCK

    int socket(int domain, int type, int protocol) nogil
    int accept4(int fd, sockaddr *addr, socklen_t *len, int flags) nogil
    int connect(int fd, const sockaddr *addr, socklen_t len) nogil
    int shutdown(int fd, int how) nogil
    int getsockopt(int fd, int level, int name, void *value, socklen_t *len) nogil
    int setsockopt(int fd, int level, int name, const void *value, socklen_t len) nogil
    int F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    int pipe2(int *fds, int flags) nogil
    int fcntl(int fd, int what, ...) nogil
    ssize_t splice(int from_, int64_t *from_at, int to, int64_t *to_at, size_t n, unsigned int flags) nogil
    int getsockname(int fd, sockaddr *addr, socklen_t *len) nogil
    int inet_pton(int af, const char *src, void *dst) nogil
    int getpeername(int fd, sockaddr *addr, socklen_t *len) nogil
    ssize_t recv(int fd, void *buf, size_t n, int flags) nogil
    ssize_t send(int fd, const void *buf, size_t n, int flags) nogil
    ssize_t sendmsg(int fd, const msghdr *msg, int flags) nogil
    ssize_t read(int fd, void *buf, size_t n) nogil
    ssize_t write(int fd, const void *buf, size_t n) nogil
    int close(int fd) nogil
    int epoll_create1(int flags) nogil
    int epoll_ctl(int ep, int op, int fd, epoll_event *ev) nogil
    int epoll_wait(int ep, epoll_event *events, int maxevents, int timeout) nogil
    int eventfd(unsigned int initval, int flags) nogil
    int EFD_NONBLOCK, EFD_CLOEXEC
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset) nogil
    int munmap(void *addr, size_t length) nogil
    int fallocate(int fd, int mode, int64_t offset, int64_t length) nogil
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
    int getpid() nogil
    uint16_t htons(uint16_t v) nogil
    uint16_t ntohs(uint16_t v) nogil
    int PR_SET_PDEATHSIG, PR_SET_NAME
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d) nogil
    ssize_t getrandom(void *buf, size_t n, unsigned int flags) nogil
    const char *inet_ntop(int af, const void *src, char *dst, socklen_t size) nogil
