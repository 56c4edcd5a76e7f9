/*
 * load: the load generator of bench/ for what wrk cannot do. One thread, epoll, 127.0.0.1 only; it ends by itself.
 *
 *   load closed    PORT SECONDS CONNS BODY PATH HOST        each connection asks again as soon as it is answered
 *   load rate      PORT SECONDS CONNS BODY PATH HOST RATE   open loop: a request is due every 1/RATE s, whatever the
 *                                                           answers do; its latency counts from when it was due
 *   load handshake PORT SECONDS CONNS BODY PATH HOST CA NAME   a new TLS 1.3 connection, full handshake, one request
 *
 * BODY is the size every answer must have. Anything but a 200 of that size, and any socket error, is an error; one
 * error makes a run worthless to its caller. Prints one JSON object; latencies in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "report.h"

#define CHUNK (256 * 1024) /* one read: a large answer must not cost the load more than it costs the proxy */
#define HEAD_MAX 8192
#define MAX_CONNS 4096
#define GRACE_NS 2000000000ull  /* how long answers due before the end may still come */

enum mode { CLOSED, RATE, HANDSHAKE };
enum state { IDLE, CONNECTING, SHAKING, SENDING, HEAD, BODY };
struct conn {
    int fd;
    enum state state;
    unsigned armed, head_len;
    uint64_t since;      /* when the request was due (rate), or begun */
    long body_left;
    SSL *ssl;
    char head[HEAD_MAX];
};

static enum mode mode;
static int ep, port, conns_wanted;
static long body_wanted;
static char request[2048], chunk[CHUNK];
static int request_len;
static struct conn *conns, **free_conns;
static int free_count;
static SSL_CTX *tls;
static const char *tls_name;
static uint64_t begun, ends, interval, due_next, due_last;
static uint64_t issued;

static void arm(struct conn *c, unsigned events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (c->armed != events && epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
        die("epoll_ctl");
    c->armed = events;
}

static void conn_close(struct conn *c)
{
    if (c->ssl) {
        if (c->state > SHAKING)
            SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->state = IDLE;
}

static void conn_open(struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        die("connect");
    c->state = CONNECTING;
    c->armed = EPOLLOUT;
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
        die("epoll_ctl");
}

static void conn_send(struct conn *c);

/* A free connection takes the next due request, in rate mode. */
static void rate_issue(uint64_t now)
{
    while (free_count && due_next <= now && due_next < due_last) {
        struct conn *c = free_conns[--free_count];
        c->since = due_next;
        due_next += interval;
        issued++;
        conn_send(c);
    }
}

static void conn_failed(struct conn *c, const char *why)
{
    error_add(why);
    conn_close(c);
    if (errors > 1000) /* the run is lost: do not spin on a dead port */
        ends = due_last = 0;
    if (now_ns() < ends)
        conn_open(c);
}

static void conn_next(struct conn *c)
{
    uint64_t now = now_ns();
    if (mode == RATE) {
        c->state = IDLE;
        free_conns[free_count++] = c;
        rate_issue(now);
        return;
    }
    if (now >= ends) {
        conn_close(c);
        return;
    }
    c->since = now;
    if (mode == HANDSHAKE) {
        conn_close(c);
        conn_open(c);
    } else {
        conn_send(c);
    }
}

static void conn_answered(struct conn *c)
{
    sample_add(c->since);
    conn_next(c);
}

static void conn_send(struct conn *c)
{
    int n;
    c->state = HEAD;
    c->head_len = 0;
    if (c->ssl)
        n = SSL_write(c->ssl, request, request_len);
    else
        n = send(c->fd, request, request_len, MSG_NOSIGNAL);
    if (n != request_len) /* an empty socket takes a few hundred bytes whole */
        conn_failed(c, "request not sent");
    else
        arm(c, EPOLLIN);
}

/* 0 the head is whole and good, 1 more is needed, -1 refused (the reason is told). */
static int head_check(struct conn *c, char *end)
{
    char *line = c->head;
    long length = -1;
    if (memcmp(c->head, "HTTP/1.1 200", 12)) {
        char why[64];
        snprintf(why, sizeof why, "answer '%.*s'", (int)strcspn(c->head, "\r\n") > 40 ? 40 : (int)strcspn(c->head, "\r\n"),
                 c->head);
        conn_failed(c, why);
        return -1;
    }
    while (line < end) {
        if (!strncasecmp(line, "content-length:", 15))
            length = atol(line + 15);
        else if (mode != HANDSHAKE && !strncasecmp(line, "connection: close", 17)) {
            conn_failed(c, "answered connection: close");
            return -1;
        }
        line = strstr(line, "\r\n") + 2;
    }
    if (length != body_wanted) {
        conn_failed(c, "wrong or missing content-length");
        return -1;
    }
    c->body_left = length;
    c->state = BODY;
    return 0;
}

static int conn_recv(struct conn *c, char *to, int room)
{
    int n;
    if (!c->ssl) {
        n = recv(c->fd, to, room, 0);
        return n < 0 && errno == EAGAIN ? -1 : n < 0 ? 0 : n;
    }
    n = SSL_read(c->ssl, to, room);
    if (n > 0)
        return n;
    n = SSL_get_error(c->ssl, n);
    ERR_clear_error();
    return n == SSL_ERROR_WANT_READ || n == SSL_ERROR_WANT_WRITE ? -1 : 0;
}

static void conn_read(struct conn *c)
{
    while (c->state == HEAD || c->state == BODY) {
        int n = conn_recv(c, chunk, CHUNK - 1);
        char *body = chunk;
        if (n == -1)
            return;
        if (n == 0) {
            conn_failed(c, "connection closed before the whole answer");
            return;
        }
        bytes_in += n;
        if (c->state == HEAD) {
            int take = n < (int)(HEAD_MAX - 1 - c->head_len) ? n : (int)(HEAD_MAX - 1 - c->head_len);
            char *end;
            memcpy(c->head + c->head_len, chunk, take);
            c->head[c->head_len + take] = 0;
            end = strstr(c->head, "\r\n\r\n");
            if (!end) {
                c->head_len += take;
                if (c->head_len == HEAD_MAX - 1)
                    conn_failed(c, "head too large");
                continue;
            }
            if (head_check(c, end + 2))
                return;
            body += end + 4 - c->head - c->head_len;
        }
        c->body_left -= chunk + n - body;
        if (c->body_left < 0) {
            conn_failed(c, "more bytes than the body has");
            return;
        }
        if (c->body_left == 0) {
            conn_answered(c);
            return;
        }
        if (!c->ssl && n < CHUNK - 1)
            return; /* the socket is empty: spare the read that would say so */
    }
}

static void conn_shake(struct conn *c)
{
    int n = SSL_do_handshake(c->ssl);
    if (n == 1) {
        if (SSL_session_reused(c->ssl))
            conn_failed(c, "session resumed");
        else
            conn_send(c);
        return;
    }
    n = SSL_get_error(c->ssl, n);
    if (n == SSL_ERROR_WANT_READ)
        arm(c, EPOLLIN);
    else if (n == SSL_ERROR_WANT_WRITE)
        arm(c, EPOLLOUT);
    else {
        char why[128];
        ERR_error_string_n(ERR_get_error(), why, sizeof why);
        ERR_clear_error();
        conn_failed(c, why);
    }
}

static void conn_event(struct conn *c)
{
    if (c->state == CONNECTING) {
        int e = 0;
        socklen_t len = sizeof e;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len);
        if (e) {
            conn_failed(c, strerror(e));
            return;
        }
        if (mode == HANDSHAKE) {
            c->ssl = SSL_new(tls);
            SSL_set_fd(c->ssl, c->fd);
            SSL_set_connect_state(c->ssl);
            SSL_set_tlsext_host_name(c->ssl, tls_name);
            SSL_set1_host(c->ssl, tls_name);
            c->state = SHAKING;
            conn_shake(c);
        } else if (mode == RATE) {
            c->state = IDLE;
            arm(c, EPOLLIN);
            free_conns[free_count++] = c;
        } else {
            c->since = now_ns();
            conn_send(c);
        }
    } else if (c->state == SHAKING) {
        conn_shake(c);
    } else if (c->state == IDLE) { /* only rate mode has idle connections: the peer closed one */
        int i;
        for (i = 0; i < free_count; i++)
            if (free_conns[i] == c)
                free_conns[i] = free_conns[--free_count];
        conn_failed(c, "idle connection closed");
    } else {
        conn_read(c);
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    struct itimerspec tick = {0};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    int timer, i;
    double seconds;
    if (argc < 8) {
        fprintf(stderr, "usage: load closed|rate|handshake PORT SECONDS CONNS BODY PATH HOST [RATE | CA NAME]\n");
        return 2;
    }
    mode = !strcmp(argv[1], "closed") ? CLOSED : !strcmp(argv[1], "rate") ? RATE : HANDSHAKE;
    port = atoi(argv[2]);
    seconds = atof(argv[3]);
    conns_wanted = atoi(argv[4]);
    body_wanted = atol(argv[5]);
    if (conns_wanted < 1 || conns_wanted > MAX_CONNS || argc < (mode == CLOSED ? 8 : mode == RATE ? 9 : 10))
        return 2;
    request_len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", argv[6], argv[7]);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    if (mode == HANDSHAKE) {
        tls = SSL_CTX_new(TLS_client_method());
        tls_name = argv[9];
        if (!tls || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) ||
            !SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256") || SSL_CTX_load_verify_locations(tls, argv[8], NULL) != 1)
            die("TLS");
        SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    }
    conns = calloc(conns_wanted, sizeof *conns);
    free_conns = calloc(conns_wanted, sizeof *free_conns);
    samples_make();
    ep = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (!conns || !free_conns || ep < 0 || timer < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, timer, &ev) < 0)
        die("start");

    begun = now_ns();
    ends = begun + (uint64_t)(seconds * 1e9);
    if (mode == RATE) { /* connections first, the schedule 20 ms later */
        begun += 20000000;
        ends += 20000000;
        interval = (uint64_t)(1e9 / atof(argv[8]));
        due_next = begun;
        due_last = ends;
        tick.it_interval.tv_sec = interval / 1000000000ull;
        tick.it_interval.tv_nsec = interval % 1000000000ull;
        tick.it_value.tv_sec = begun / 1000000000ull;
        tick.it_value.tv_nsec = begun % 1000000000ull;
        if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &tick, NULL) < 0)
            die("timerfd");
    }
    for (i = 0; i < conns_wanted; i++) {
        conns[i].fd = -1;
        conns[i].since = begun;
        conn_open(&conns[i]);
    }
    for (;;) {
        int n = epoll_wait(ep, events, 256, 50);
        uint64_t t;
        for (i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c) {
                if (c->fd >= 0)
                    conn_event(c);
            } else if (read(timer, &t, sizeof t) == sizeof t) {
                rate_issue(now_ns());
            }
        }
        t = now_ns();
        if (t >= ends) {
            int waiting = 0;
            for (i = 0; i < conns_wanted; i++)
                waiting += conns[i].fd >= 0 && conns[i].state != IDLE;
            if (mode == RATE && due_next < due_last)
                waiting = 1; /* a due request has no connection yet */
            if (!waiting)
                break;
            if (t > ends + GRACE_NS) {
                errors += waiting;
                if (!first_error[0])
                    snprintf(first_error, sizeof first_error, "%d requests without an answer", waiting);
                break;
            }
        }
    }
    report((now_ns() - begun) / 1e9);
    return errors != 0;
}
