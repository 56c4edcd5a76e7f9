/*
 * stream: bytes through a TCP proxy. A measuring instrument of bench/tcp.py.
 *
 *   stream sink PORT                        reads what comes, to its end; then says how many bytes that were
 *   stream source PORT                      sends without end to whoever connects
 *   stream send PORT SECONDS CONNECTIONS    sends as fast as it goes; prints bytes and nanoseconds
 *   stream check PORT SECONDS CONNECTIONS   the same; then ends its direction, and compares what the sink says with
 *                                           what it sent (the floor does not carry a half-closed connection)
 *   stream take PORT SECONDS CONNECTIONS    reads from a source
 *
 * All ports are on 127.0.0.1. The bytes are a pattern, of which a sink checks what it reads.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define MOST 1024

static unsigned char out[2 * CHUNK], in[CHUNK];
struct flow { int fd; uint64_t n; };
static struct flow flows[MOST];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in local(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* What is read at offset n of a flow: the pattern's period is CHUNK. Only its ends are compared, so that the check
 * costs the load nothing that would be taken for the proxy's. */
static void verify(const struct flow *f, ssize_t k) {
    const unsigned char *want = out + f->n % CHUNK;
    if (in[0] != want[0] || in[k - 1] != want[k - 1]) {
        fprintf(stderr, "stream: bytes differ behind %llu\n", (unsigned long long)f->n);
        exit(1);
    }
}

static int listening(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = local(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 512)) die("listen");
    return fd;
}

static int serve(int port, int source) {
    int lfd = listening(port), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 0}, got[64];
    epoll_ctl(ep, EPOLL_CTL_ADD, lfd, &e);
    for (;;) {
        int n = epoll_wait(ep, got, 64, -1);
        for (int i = 0; i < n; i++) {
            struct flow *f = got[i].data.ptr;
            if (f == NULL) {
                f = calloc(1, sizeof *f);
                f->fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK);
                e.events = source ? EPOLLOUT : EPOLLIN;
                e.data.ptr = f;
                epoll_ctl(ep, EPOLL_CTL_ADD, f->fd, &e);
                continue;
            }
            ssize_t k = source ? send(f->fd, out + f->n % CHUNK, CHUNK, MSG_NOSIGNAL) : read(f->fd, in, CHUNK);
            if (k > 0) {
                if (!source) verify(f, k);
                f->n += (uint64_t)k;
                continue;
            }
            if (k < 0 && errno == EAGAIN) continue;
            if (k == 0 && !source && send(f->fd, &f->n, sizeof f->n, MSG_NOSIGNAL) < 0) perror("send");
            close(f->fd);
            free(f);
        }
    }
}

static int drive(int port, double seconds, int n, int sends, int checks) {
    struct pollfd p[MOST];
    struct sockaddr_in a = local(port);
    uint64_t begin, end, total = 0;
    for (int i = 0; i < n; i++) {
        flows[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(flows[i].fd, (struct sockaddr *)&a, sizeof a)) die("connect");
        p[i] = (struct pollfd){.fd = flows[i].fd, .events = sends ? POLLOUT : POLLIN};
    }
    begin = now();
    uint64_t took;
    end = begin + (uint64_t)(seconds * 1e9);
    while (now() < end) {
        if (poll(p, (nfds_t)n, 100) < 0) die("poll");
        for (int i = 0; i < n; i++) {
            struct flow *f = &flows[i];
            if (!p[i].revents) continue;
            ssize_t k = sends ? send(f->fd, out + f->n % CHUNK, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : recv(f->fd, in, CHUNK, MSG_DONTWAIT);
            if (k < 0 && errno == EAGAIN) continue;
            if (k <= 0) die("the connection ended");
            if (!sends) verify(f, k);
            f->n += (uint64_t)k;
        }
    }
    took = now() - begin;
    for (int i = 0; i < n; i++) {
        struct flow *f = &flows[i];
        uint64_t said = 0;
        total += f->n;
        if (!checks) {
            close(f->fd);
            continue;
        }
        shutdown(f->fd, SHUT_WR);
        if (recv(f->fd, &said, sizeof said, MSG_WAITALL) != sizeof said || said != f->n) {
            fprintf(stderr, "stream: %llu bytes sent, %llu arrived\n", (unsigned long long)f->n, (unsigned long long)said);
            return 1;
        }
        if (recv(f->fd, &said, 1, 0) != 0) die("no end");
    }
    printf("%llu %llu\n", (unsigned long long)total, (unsigned long long)took);
    return 0;
}

int main(int argc, char **argv) {
    for (unsigned i = 0; i < sizeof out; i++) out[i] = (unsigned char)((i % CHUNK) * 2654435761u >> 24);
    if (argc == 3 && !strcmp(argv[1], "sink")) return serve(atoi(argv[2]), 0);
    if (argc == 3 && !strcmp(argv[1], "source")) return serve(atoi(argv[2]), 1);
    if (argc == 5 && atoi(argv[4]) > 0 && atoi(argv[4]) <= MOST) {
        int checks = !strcmp(argv[1], "check"), sends = checks || !strcmp(argv[1], "send");
        if (sends || !strcmp(argv[1], "take")) return drive(atoi(argv[2]), atof(argv[3]), atoi(argv[4]), sends, checks);
    }
    fprintf(stderr, "usage: stream sink|source PORT, stream send|check|take PORT SECONDS CONNECTIONS\n");
    return 2;
}
