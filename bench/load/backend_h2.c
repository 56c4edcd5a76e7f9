/*
 * backend-h2: the application behind the proxies of bench/ that speaks HTTP/2 without TLS, prior knowledge only. Like
 * backend.c it must cost little and is built static. Which port was asked decides the answer, so that no header block
 * needs decoding:
 *
 *   backend-h2 WEB GRPC HOLD STATUS     four ports on 127.0.0.1
 *     WEB     200 and 1 KiB; x-seen-version says HTTP/2
 *     GRPC    200, one message of 32 bytes, trailers with grpc-status 0
 *     HOLD    no answer, ever: the streams stay in flight
 *     STATUS  anything that connects reads "CONNECTIONS REQUESTS HELD\n", counted over the other three
 *
 * A request counts when its END_STREAM has come. Field sections are kept in step with the client's HPACK table as real
 * servers do it: the first answer of a connection puts its fields into the table, the later ones name them by index.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "h2.h"

#define IN_MAX 65536
#define OUT_FULL (1024 * 1024) /* with so much unsent a connection is not read: its client reads too slowly */
#define EVENTS 256
#define MAX_STREAMS 1024
#define BODY 1024
#define MESSAGE 32
#define TABLE_SIZE 4096      /* the client's default, which we use; ours is far smaller */
#define GIVE_BACK (1u << 20) /* request bytes after which the connection's window is refilled */
#define STREAM_WINDOW (16u << 20)

enum service { WEB, GRPC, HOLD, STATUS, SERVICES };
struct block {
    unsigned char bytes[256];
    unsigned len;
};
struct answer {             /* an answer that waits for windows */
    uint32_t stream;
    unsigned left;
    long window;
};
struct conn {
    int fd, started, closing;
    enum service service;
    unsigned armed, in_used, taken; /* taken: request bytes since the last WINDOW_UPDATE */
    long window, stream_window;
    uint32_t open_stream;     /* of a header block that CONTINUATION goes on with */
    int open_ends;
    int table_small, table_told, table_filled;
    unsigned held;
    struct answer *waiting;
    unsigned waiting_first, waiting_end, waiting_room;
    unsigned char *out;
    size_t out_len, out_off, out_room;
    unsigned char in[IN_MAX];
};

static int ep;
static struct listener {
    int fd;
    enum service service;
} listeners[SERVICES];
static unsigned long connections, requests, held;
static struct block first[2], again[2], literal[2], trailers; /* [GRPC or not] */
static unsigned char bodies[2][BODY];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* The same fields three ways: into the client's table (0x40), by their indexes in it, without it (0x00). The table is
 * filled from the front, so that the last field of the first answer is at 62. */
static void make_blocks(void)
{
    static const struct { int index; const char *name, *value; } fields[2][5] = {
        {{54, 0, "bench"}, {33, 0, "Thu, 01 Jan 2026 00:00:00 GMT"}, {31, 0, "text/plain"}, {28, 0, "1024"},
         {0, "x-seen-version", "HTTP/2"}},
        {{31, 0, "application/grpc"}, {0, "x-seen-version", "HTTP/2"}, {0, 0, 0}},
    };
    for (int kind = 0; kind < 2; kind++) {
        unsigned char *f = first[kind].bytes, *l = literal[kind].bytes, *a = again[kind].bytes;
        int count = 0, i;
        *f++ = *l++ = *a++ = 0x88; /* :status 200 */
        while (count < 5 && fields[kind][count].value)
            count++;
        for (i = 0; i < count; i++) {
            int index = fields[kind][i].index;
            f = h2_put_field(f, 0x40 | index, -1, fields[kind][i].name, fields[kind][i].value);
            l = h2_put_field(l, index < 15 ? index : 15, index < 15 ? -1 : index - 15, fields[kind][i].name,
                             fields[kind][i].value);
            *a++ = 0x80 | (62 + count - 1 - i);
        }
        first[kind].len = f - first[kind].bytes;
        literal[kind].len = l - literal[kind].bytes;
        again[kind].len = a - again[kind].bytes;
    }
    trailers.len = h2_put_field(trailers.bytes, 0, -1, "grpc-status", "0") - trailers.bytes;
    memset(bodies[0], 'x', BODY);
    memset(bodies[1], 'x', BODY);
    bodies[1][0] = 0; /* a gRPC message: not compressed, its length, its bytes */
    h2_put32(bodies[1] + 1, MESSAGE);
}

static unsigned body_len(const struct conn *c)
{
    return c->service == GRPC ? 5 + MESSAGE : BODY;
}

static unsigned char *out_room(struct conn *c, size_t len)
{
    if (c->out_len + len > c->out_room) {
        c->out_room = 2 * (c->out_len + len);
        c->out = realloc(c->out, c->out_room);
        if (!c->out)
            die("realloc");
    }
    c->out_len += len;
    return c->out + c->out_len - len;
}

static void put_block(struct conn *c, uint32_t stream, const struct block *b, unsigned flags, int shrunk)
{
    unsigned len = b->len + shrunk;
    unsigned char *p = h2_put_head(out_room(c, H2_FRAME_HEAD + len), len, H2_HEADERS, flags | H2_END_HEADERS, stream);
    if (shrunk)
        *p++ = 0x20; /* the table has no room now: RFC 7541 section 4.2 wants that said */
    memcpy(p, b->bytes, b->len);
}

static void put_head(struct conn *c, uint32_t stream)
{
    int kind = c->service == GRPC, shrunk = c->table_small && !c->table_told;
    const struct block *b = c->table_small ? &literal[kind] : c->table_filled ? &again[kind] : &first[kind];
    c->table_filled = 1;
    c->table_told = c->table_small;
    put_block(c, stream, b, 0, shrunk);
}

/* As much of the answer as the windows allow; 1 when it is all out. */
static int put_body(struct conn *c, struct answer *a)
{
    int grpc = c->service == GRPC;
    long n = a->left;
    unsigned char *p;
    if (n > c->window)
        n = c->window;
    if (n > a->window)
        n = a->window;
    if (n <= 0)
        return 0;
    p = out_room(c, H2_FRAME_HEAD + n);
    p = h2_put_head(p, n, H2_DATA, n == a->left && !grpc ? H2_END_STREAM : 0, a->stream);
    memcpy(p, bodies[grpc] + body_len(c) - a->left, n);
    a->left -= n;
    a->window -= n;
    c->window -= n;
    if (a->left)
        return 0;
    if (grpc)
        put_block(c, a->stream, &trailers, H2_END_STREAM, 0);
    return 1;
}

static void waiting_add(struct conn *c, const struct answer *a)
{
    if (c->waiting_end == c->waiting_room) {
        unsigned count = c->waiting_end - c->waiting_first;
        if (c->waiting_first) /* the front is free again */
            memmove(c->waiting, c->waiting + c->waiting_first, count * sizeof *a);
        if (2 * count >= c->waiting_room) {
            c->waiting_room = c->waiting_room ? 2 * c->waiting_room : 64;
            c->waiting = realloc(c->waiting, c->waiting_room * sizeof *a);
            if (!c->waiting)
                die("realloc");
        }
        c->waiting_first = 0;
        c->waiting_end = count;
    }
    c->waiting[c->waiting_end++] = *a;
}

/* A window grew: the oldest answers first. */
static void waiting_go(struct conn *c)
{
    unsigned from = c->waiting_first, to = from, i;
    for (i = from; i < c->waiting_end; i++) {
        struct answer *a = &c->waiting[i];
        if (c->window > 0 && put_body(c, a))
            continue;
        c->waiting[to++] = *a;
    }
    c->waiting_end = to;
    if (to == from)
        c->waiting_first = c->waiting_end = 0;
}

static void request_ended(struct conn *c, uint32_t stream)
{
    struct answer a = {stream, body_len(c), c->stream_window};
    requests++;
    if (c->service == HOLD) {
        c->held++;
        held++;
        return;
    }
    put_head(c, stream);
    if (!put_body(c, &a))
        waiting_add(c, &a);
}

static void stream_reset(struct conn *c, uint32_t stream)
{
    unsigned i;
    if (c->service == HOLD && c->held) {
        c->held--;
        held--;
    }
    for (i = c->waiting_first; i < c->waiting_end; i++)
        if (c->waiting[i].stream == stream) {
            memmove(c->waiting + i, c->waiting + i + 1, (c->waiting_end - i - 1) * sizeof *c->waiting);
            c->waiting_end--;
            return;
        }
}

static int settings(struct conn *c, const struct h2_frame *f)
{
    unsigned i, at;
    if (f->flags & H2_ACK)
        return 0;
    if (f->len % 6)
        return -1;
    for (at = 0; at < f->len; at += 6) {
        unsigned id = f->payload[at] << 8 | f->payload[at + 1];
        uint32_t value = h2_get32(f->payload + at + 2);
        if (id == H2_HEADER_TABLE_SIZE && value < TABLE_SIZE)
            c->table_small = 1;
        if (id == H2_INITIAL_WINDOW_SIZE) {
            if (value > H2_WINDOW_MAX)
                return -1;
            for (i = c->waiting_first; i < c->waiting_end; i++)
                c->waiting[i].window += (long)value - c->stream_window;
            c->stream_window = value;
        }
    }
    h2_put_head(out_room(c, H2_FRAME_HEAD), 0, H2_SETTINGS, H2_ACK, 0);
    waiting_go(c);
    return 0;
}

static int window_update(struct conn *c, const struct h2_frame *f)
{
    uint32_t grown;
    unsigned i;
    if (f->len != 4)
        return -1;
    grown = h2_get32(f->payload) & H2_WINDOW_MAX;
    if (!f->stream)
        c->window += grown;
    /* One for a stream whose request is not whole yet is lost: its window is far larger than an answer. */
    for (i = c->waiting_first; f->stream && i < c->waiting_end; i++)
        if (c->waiting[i].stream == f->stream)
            c->waiting[i].window += grown;
    waiting_go(c);
    return 0;
}

static void received(struct conn *c, unsigned len)
{
    c->taken += len;
    if (c->taken >= GIVE_BACK) {
        h2_put32(h2_put_head(out_room(c, H2_FRAME_HEAD + 4), 4, H2_WINDOW_UPDATE, 0, 0), c->taken);
        c->taken = 0;
    }
}

static int frame(struct conn *c, const struct h2_frame *f)
{
    if (c->open_stream && (f->type != H2_CONTINUATION || f->stream != c->open_stream))
        return -1;
    switch (f->type) {
    case H2_DATA:
        received(c, f->len);
        if (f->flags & H2_END_STREAM)
            request_ended(c, f->stream);
        return 0;
    case H2_HEADERS:
    case H2_CONTINUATION:
        if (f->type == H2_HEADERS)
            c->open_ends = f->flags & H2_END_STREAM;
        else if (!c->open_stream)
            return -1;
        c->open_stream = f->flags & H2_END_HEADERS ? 0 : f->stream;
        if (!c->open_stream && c->open_ends)
            request_ended(c, f->stream);
        return 0;
    case H2_RST_STREAM:
        stream_reset(c, f->stream);
        return 0;
    case H2_SETTINGS:
        return settings(c, f);
    case H2_PING:
        if (f->len != 8)
            return -1;
        if (!(f->flags & H2_ACK))
            memcpy(h2_put_head(out_room(c, H2_FRAME_HEAD + 8), 8, H2_PING, H2_ACK, 0), f->payload, 8);
        return 0;
    case H2_WINDOW_UPDATE:
        return window_update(c, f);
    default:
        return 0; /* PRIORITY, GOAWAY and what extensions bring: the client closes when it is done */
    }
}

static void greet(struct conn *c)
{
    unsigned char *p = out_room(c, H2_FRAME_HEAD + 12 + H2_FRAME_HEAD + 4);
    p = h2_put_head(p, 12, H2_SETTINGS, 0, 0);
    *p++ = 0;
    *p++ = H2_MAX_CONCURRENT_STREAMS;
    p = h2_put32(p, MAX_STREAMS);
    *p++ = 0;
    *p++ = H2_INITIAL_WINDOW_SIZE;
    p = h2_put32(p, STREAM_WINDOW);
    h2_put32(h2_put_head(p, 4, H2_WINDOW_UPDATE, 0, 0), STREAM_WINDOW);
}

/* 0 or -1 when the connection is done with. */
static int flush_out(struct conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->out_off += n;
    }
    c->out_len = c->out_off = 0;
    return c->closing ? -1 : 0;
}

static int readable(struct conn *c)
{
    unsigned at = 0;
    struct h2_frame f;
    ssize_t n = recv(c->fd, c->in + c->in_used, IN_MAX - c->in_used, 0);
    int len;
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    if (n == 0)
        return -1;
    c->in_used += n;
    if (!c->started) {
        if (memcmp(c->in, H2_PREFACE, c->in_used < H2_PREFACE_LEN ? c->in_used : H2_PREFACE_LEN))
            return -1; /* HTTP/1: nobody here speaks it */
        if (c->in_used < H2_PREFACE_LEN)
            return 0;
        at = H2_PREFACE_LEN;
        c->started = 1;
    }
    while ((len = h2_frame_at(c->in + at, c->in_used - at, &f)) > 0) {
        if (frame(c, &f) < 0)
            return -1;
        at += len;
    }
    if (len < 0)
        return -1;
    memmove(c->in, c->in + at, c->in_used - at);
    c->in_used -= at;
    return 0;
}

static void conn_close(struct conn *c)
{
    close(c->fd);
    connections -= c->service != STATUS;
    held -= c->held;
    free(c->waiting);
    free(c->out);
    free(c);
}

static void conn_accept(const struct listener *l)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int one = 1, fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct conn *c;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c = malloc(sizeof *c);
    if (!c)
        die("malloc");
    memset(c, 0, offsetof(struct conn, in));
    c->fd = fd;
    c->service = l->service;
    c->window = c->stream_window = H2_WINDOW;
    c->armed = EPOLLIN;
    ev.data.ptr = c;
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll_ctl");
    if (l->service == STATUS) {
        char line[96];
        int n = snprintf(line, sizeof line, "%lu %lu %lu\n", connections, requests, held);
        memcpy(out_room(c, n), line, n);
        c->closing = 1;
    } else {
        connections++;
        greet(c);
    }
    if (flush_out(c) < 0)
        conn_close(c);
}

static void conn_event(struct conn *c, unsigned what)
{
    struct epoll_event ev = {.data.ptr = c};
    int r = 0;
    if (what & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->out_len - c->out_off < OUT_FULL)
        r = readable(c);
    if (r == 0)
        r = flush_out(c);
    if (r < 0) {
        conn_close(c);
        return;
    }
    ev.events = (c->out_len ? EPOLLOUT : 0) | (c->out_len - c->out_off < OUT_FULL ? EPOLLIN : 0);
    if (ev.events != c->armed && epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
        die("epoll_ctl");
    c->armed = ev.events;
}

static void listen_at(struct listener *l, enum service service, int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = l};
    int one = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    l->service = service;
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(l->fd, 4096) < 0)
        die("listen");
    if (epoll_ctl(ep, EPOLL_CTL_ADD, l->fd, &ev) < 0)
        die("epoll_ctl");
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];
    int i;
    if (argc != 1 + SERVICES)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    make_blocks();
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0)
        die("epoll");
    for (i = 0; i < SERVICES; i++)
        listen_at(&listeners[i], i, atoi(argv[1 + i]));
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (i = 0; i < n; i++) {
            struct listener *l = events[i].data.ptr;
            if (l >= listeners && l < listeners + SERVICES)
                conn_accept(l);
            else
                conn_event(events[i].data.ptr, events[i].events);
        }
    }
}
