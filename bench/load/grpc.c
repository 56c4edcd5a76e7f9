/*
 * grpc: unary gRPC calls at a fixed rate over HTTP/2 with prior knowledge. One thread, epoll, 127.0.0.1 only; it ends by
 * itself.
 *
 *   grpc PORT SECONDS CONNS HOST RATE   open loop: a call is due every 1/RATE s, whatever the answers do; its latency
 *                                       counts from when it was due to the END_STREAM of its trailers
 *
 * Calls go to the connections in turn. An answer without :status 200 (as it stands in the static table), a reset, a
 * GOAWAY and any socket error are errors. Prints the JSON object of report.h.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "h2.h"
#include "report.h"

#define MAX_CONNS 256
#define MESSAGE 32
#define ON_WAY 4096            /* calls that a connection has at most on their way */
#define GIVE_BACK 16384
#define GRACE_NS 2000000000ull /* how long answers due before the end may still come */

struct conn {
    int fd;
    uint32_t next;
    unsigned in_used, taken;
    uint64_t since[ON_WAY];
    unsigned char seen[ON_WAY]; /* the head has come */
    unsigned char in[65536];
};

static struct conn *conns;
static int nconns, ep;
static unsigned char call[512];
static unsigned call_len, block_len;
static uint64_t issued;

static void put(struct conn *c, const void *p, size_t n)
{
    if (send(c->fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
        error_add("a connection takes no more");
}

static void make_call(const char *host)
{
    unsigned char *p = call + H2_FRAME_HEAD, *data;
    *p++ = 0x83; /* :method POST */
    *p++ = 0x86; /* :scheme http */
    p = h2_put_field(p, 0x04, -1, NULL, "/bench.Echo/Unary");
    p = h2_put_field(p, 0x01, -1, NULL, host);
    p = h2_put_field(p, 0x0f, 31 - 15, NULL, "application/grpc");
    p = h2_put_field(p, 0x00, -1, "te", "trailers");
    block_len = p - call - H2_FRAME_HEAD;
    data = h2_put_head(p, 5 + MESSAGE, H2_DATA, H2_END_STREAM, 1);
    *data++ = 0;
    data = h2_put32(data, MESSAGE);
    memset(data, 'x', MESSAGE);
    call_len = data + MESSAGE - call;
}

static void issue(uint64_t due)
{
    struct conn *c = &conns[issued++ % nconns];
    h2_put_head(call, block_len, H2_HEADERS, H2_END_HEADERS, c->next);
    h2_put_head(call + H2_FRAME_HEAD + block_len, 5 + MESSAGE, H2_DATA, H2_END_STREAM, c->next);
    c->since[c->next / 2 % ON_WAY] = due;
    c->seen[c->next / 2 % ON_WAY] = 0;
    c->next += 2;
    put(c, call, call_len);
}

static void on_frame(struct conn *c, const struct h2_frame *f)
{
    unsigned char out[H2_FRAME_HEAD + 8];
    unsigned at = f->stream / 2 % ON_WAY;
    if (f->type == H2_SETTINGS && !(f->flags & H2_ACK)) {
        h2_put_head(out, 0, H2_SETTINGS, H2_ACK, 0);
        put(c, out, H2_FRAME_HEAD);
    } else if (f->type == H2_PING && !(f->flags & H2_ACK)) {
        memcpy(h2_put_head(out, 8, H2_PING, H2_ACK, 0), f->payload, 8);
        put(c, out, sizeof out);
    } else if (f->type == H2_RST_STREAM || f->type == H2_GOAWAY) {
        error_add(f->type == H2_GOAWAY ? "GOAWAY" : "RST_STREAM");
    } else if (f->type == H2_HEADERS) {
        unsigned i = 0;
        while (i < f->len && (f->payload[i] & 0xe0) == 0x20) /* table sizes below 31: none of them is longer here */
            i += (f->payload[i] & 0x1f) == 0x1f ? 3 : 1;
        if (!c->seen[at] && (i >= f->len || f->payload[i] != 0x88))
            error_add("an answer without :status 200");
        c->seen[at] = 1;
        if (f->flags & H2_END_STREAM)
            sample_add(c->since[at]);
    } else if (f->type == H2_DATA) {
        bytes_in += f->len;
        c->taken += f->len;
        if (c->taken >= GIVE_BACK) {
            h2_put32(h2_put_head(out, 4, H2_WINDOW_UPDATE, 0, 0), c->taken);
            put(c, out, H2_FRAME_HEAD + 4);
            c->taken = 0;
        }
        if (f->flags & H2_END_STREAM)
            error_add("an answer without trailers");
    }
}

static void on_readable(struct conn *c)
{
    struct h2_frame f;
    unsigned at = 0;
    int used;
    ssize_t n = recv(c->fd, c->in + c->in_used, sizeof c->in - c->in_used, MSG_DONTWAIT);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        error_add("a connection was closed");
        epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    c->in_used += n;
    while ((used = h2_frame_at(c->in + at, c->in_used - at, &f)) > 0) {
        at += used;
        on_frame(c, &f);
    }
    if (used < 0)
        error_add("a frame that is too large");
    memmove(c->in, c->in + at, c->in_used - at);
    c->in_used -= at;
}

static void conn_open(struct conn *c, int port)
{
    static const unsigned char hello[] = H2_PREFACE "\0\0\0\4\0\0\0\0";
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a))
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->next = 1;
    put(c, hello, sizeof hello); /* the literal's own NUL is the last byte of the SETTINGS frame's head */
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

int main(int argc, char **argv)
{
    struct epoll_event events[64];
    uint64_t begun, interval, due, ends;
    struct itimerspec every = {0};
    int timer, i, n, port;
    double seconds;
    prctl(PR_SET_TIMERSLACK, 1);
    if (argc != 6) {
        fprintf(stderr, "usage: grpc PORT SECONDS CONNS HOST RATE\n");
        return 2;
    }
    port = atoi(argv[1]);
    seconds = atof(argv[2]);
    nconns = atoi(argv[3]);
    interval = 1e9 / atof(argv[5]);
    if (nconns < 1 || nconns > MAX_CONNS || strlen(argv[4]) > 100 || interval < 10000)
        return 2;
    ep = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(nconns, sizeof *conns);
    samples_make();
    make_call(argv[4]);
    for (i = 0; i < nconns; i++)
        conn_open(&conns[i], port);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_ctl(ep, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN});
    begun = now_ns();
    due = begun + interval;
    ends = begun + seconds * 1e9;
    while (errors < 1000 && (due < ends || answered < issued) && now_ns() < ends + GRACE_NS) {
        if (due < ends) {
            every.it_value.tv_sec = due / 1000000000;
            every.it_value.tv_nsec = due % 1000000000;
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &every, NULL);
        }
        n = epoll_wait(ep, events, 64, 100);
        while (due < ends && due <= now_ns()) {
            issue(due);
            due += interval;
        }
        for (i = 0; i < n; i++)
            if (events[i].data.ptr)
                on_readable(events[i].data.ptr);
    }
    if (answered < issued && !errors)
        error_add("answers are missing at the end");
    report((now_ns() - begun) / 1e9);
    return 0;
}
