/*
 * backend: the application behind the proxies of bench/. It must cost little (it shares a core with the load) and
 * share no library page with a proxy (PSS divides what is shared), hence C, built static.
 *
 *   backend PORT            on 127.0.0.1; a path that ends in /large gets 1 MiB, every other one 1 KiB
 *
 * HTTP/1.1 keep-alive, pipelining, GET only; X-Seen-Version tells which version of HTTP reached it.
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

#define HEAD_MAX 16384
#define SMALL 1024
#define LARGE (1024 * 1024)
#define EVENTS 256

struct conn {
    int fd, watching_out;
    unsigned used;          /* bytes of an unfinished head */
    unsigned closing;
    const char *out;        /* the answer being sent */
    size_t out_len, out_off;
    char in[HEAD_MAX];
};
struct answer {
    char *bytes;
    size_t len;
};

static int ep;
static struct answer answers[2][2]; /* [large][HTTP/1.1] */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct answer make_answer(size_t body, int minor)
{
    struct answer a;
    char head[512];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                     "Content-Type: text/plain\r\nX-Seen-Version: HTTP/1.%d\r\nContent-Length: %zu\r\n\r\n",
                     minor, body);
    a.len = n + body;
    a.bytes = malloc(a.len);
    if (!a.bytes)
        die("malloc");
    memcpy(a.bytes, head, n);
    memset(a.bytes + n, 'x', body);
    return a;
}

static void watch(struct conn *c, int out)
{
    struct epoll_event ev = {.events = out ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (c->watching_out == out)
        return;
    c->watching_out = out;
    if (epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
        die("epoll_ctl");
}

/* 1 sent or nothing to send, 0 the socket is full, -1 broken. */
static int flush_out(struct conn *c)
{
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->out_off += n;
    }
    c->out = NULL;
    c->out_len = c->out_off = 0;
    return c->closing ? -1 : 1;
}

/* Answers every whole head in c->in. Same results as flush_out. */
static int answer_all(struct conn *c)
{
    for (;;) {
        char *end = memmem(c->in, c->used, "\r\n\r\n", 4), *line_end, *path, *version;
        unsigned len;
        int large, r;
        if (!end)
            return c->used == HEAD_MAX ? -1 : 1;
        len = end + 4 - c->in;
        line_end = memmem(c->in, len, "\r\n", 2);
        path = memchr(c->in, ' ', line_end - c->in);
        version = path ? memchr(path + 1, ' ', line_end - path - 1) : NULL;
        if (!version || line_end - version != 9 || memcmp(c->in, "GET ", 4))
            return -1;
        large = version - path > 6 && !memcmp(version - 6, "/large", 6);
        *end = 0;
        c->closing = strcasestr(line_end, "\r\nconnection: close") != NULL;
        c->out = answers[large][version[8] == '1'].bytes;
        c->out_len = answers[large][version[8] == '1'].len;
        memmove(c->in, c->in + len, c->used - len);
        c->used -= len;
        r = flush_out(c);
        if (r != 1)
            return r;
        if (!c->used)
            return 1;
    }
}

static int readable(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->used, HEAD_MAX - c->used, 0);
    if (n < 0)
        return errno == EAGAIN ? 1 : -1;
    if (n == 0)
        return -1;
    c->used += n;
    return answer_all(c);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS], ev = {.events = EPOLLIN};
    int one = 1, listener, i;
    if (argc != 2)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    for (i = 0; i < 2; i++) {
        answers[0][i] = make_answer(SMALL, i);
        answers[1][i] = make_answer(LARGE, i);
    }
    at.sin_port = htons(atoi(argv[1]));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 4096) < 0)
        die("listen");
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
        die("epoll");
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            int r;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0)
                    continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                c = malloc(sizeof *c);
                if (!c)
                    die("malloc");
                memset(c, 0, offsetof(struct conn, in));
                c->fd = fd;
                ev.data.ptr = c;
                if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
                    die("epoll_ctl");
                continue;
            }
            if (c->watching_out) {
                r = flush_out(c);
                if (r == 1)
                    r = answer_all(c); /* what was pipelined meanwhile */
            } else {
                r = readable(c);
            }
            if (r < 0) {
                close(c->fd);
                free(c);
            } else {
                watch(c, r == 0);
            }
        }
    }
}
