/*
 * floor: the least that any proxy must do on this kernel. A byte forwarder on epoll that parses nothing: two
 * receives and two sends a request. It is a measuring instrument of bench/, never part of the product.
 *
 *   floor LISTEN UPSTREAM                                  plain in, plain out
 *   floor LISTEN UPSTREAM server CERT KEY [CLIENT_CA]      TLS in (client certificate required when a CA is given)
 *   floor LISTEN UPSTREAM client CERT KEY CA NAME          TLS out, with our certificate, the peer checked by NAME
 *
 * Both ports are on 127.0.0.1. The TLS modes exist only in the variant built with -DWITH_TLS, so that the plain
 * floor's memory does not carry OpenSSL. One client connection has one upstream connection of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#endif

#define CHUNK (256 * 1024) /* one read; large because the call size decides what a large body costs */
#define EVENTS 256

struct pair;
struct side {
    int fd;
    unsigned armed;     /* epoll events asked for */
    struct pair *pair;
    struct side *peer;
    char *rest;         /* what the socket did not take yet; only while it is slow */
    unsigned rest_len, rest_off;
    char handshaking, ended;
#ifdef WITH_TLS
    SSL *ssl;
#endif
};
struct pair {
    struct side client, upstream;
    struct pair *next_dead;
    char dead;
};

static int ep, upstream_port;
static char chunk[CHUNK];
static struct pair *dead; /* freed after the batch of events that may still name them */
#ifdef WITH_TLS
static SSL_CTX *server_ctx, *client_ctx;
static const char *peer_name;
#endif

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void arm(struct side *s, unsigned events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};
    if (s->armed == events)
        return;
    if (epoll_ctl(ep, EPOLL_CTL_MOD, s->fd, &ev) < 0)
        die("epoll_ctl");
    s->armed = events;
}

static void side_close(struct side *s)
{
#ifdef WITH_TLS
    if (s->ssl) {
        if (!s->handshaking)
            SSL_shutdown(s->ssl);
        SSL_free(s->ssl);
    }
#endif
    close(s->fd);
    free(s->rest);
}

static void pair_close(struct pair *p)
{
    if (p->dead)
        return;
    p->dead = 1;
    side_close(&p->client);
    side_close(&p->upstream);
    p->next_dead = dead;
    dead = p;
}

/* Bytes read, 0 at the end of the stream, -1 nothing now, -2 broken. */
static int side_read(struct side *s, char *to, int room)
{
    int n;
#ifdef WITH_TLS
    if (s->ssl) {
        int got = 0;
        while (got < room) {
            n = SSL_read(s->ssl, to + got, room - got);
            if (n > 0) {
                got += n;
                if (!SSL_has_pending(s->ssl))
                    break; /* spares the read that would say EAGAIN */
                continue;
            }
            n = SSL_get_error(s->ssl, n);
            ERR_clear_error();
            if (got)
                break;
            return n == SSL_ERROR_WANT_READ || n == SSL_ERROR_WANT_WRITE ? -1 : n == SSL_ERROR_ZERO_RETURN ? 0 : -2;
        }
        return got;
    }
#endif
    n = recv(s->fd, to, room, 0);
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR ? -1 : -2;
}

/* Bytes taken, -1 none now, -2 broken. */
static int side_write(struct side *s, const char *from, int len)
{
    int n;
#ifdef WITH_TLS
    if (s->ssl) {
        n = SSL_write(s->ssl, from, len);
        if (n > 0)
            return n;
        n = SSL_get_error(s->ssl, n);
        ERR_clear_error();
        return n == SSL_ERROR_WANT_READ || n == SSL_ERROR_WANT_WRITE ? -1 : -2;
    }
#endif
    n = send(s->fd, from, len, MSG_NOSIGNAL);
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR ? -1 : -2;
}

/* A side is read while its peer has taken everything, and watched for room while it has not. */
static void pair_arm(struct pair *p)
{
    struct side *c = &p->client, *u = &p->upstream;
    arm(c, (c->ended || u->rest_len ? 0 : EPOLLIN) | (c->rest_len ? EPOLLOUT : 0));
    arm(u, (u->ended || c->rest_len ? 0 : EPOLLIN) | (u->rest_len ? EPOLLOUT : 0));
}

static void forward(struct side *from)
{
    struct side *to = from->peer;
    for (;;) {
        int n = side_read(from, chunk, CHUNK), off = 0;
        if (n == -1)
            return;
        if (n <= 0) {
            from->ended = 1;
            if (to->rest_len)
                pair_arm(from->pair); /* close once the rest is out */
            else
                pair_close(from->pair);
            return;
        }
        while (off < n) {
            int w = side_write(to, chunk + off, n - off);
            if (w == -2) {
                pair_close(from->pair);
                return;
            }
            if (w == -1)
                break;
            off += w;
        }
        if (off < n) {
            to->rest = malloc(n - off);
            if (!to->rest)
                die("malloc");
            memcpy(to->rest, chunk + off, n - off);
            to->rest_len = n - off;
            to->rest_off = 0;
            pair_arm(from->pair);
            return;
        }
#ifdef WITH_TLS
        if (from->ssl && SSL_has_pending(from->ssl))
            continue; /* what OpenSSL holds, epoll does not see */
#endif
        return;
    }
}

static void flush_rest(struct side *s)
{
    while (s->rest_len) {
        int w = side_write(s, s->rest + s->rest_off, s->rest_len);
        if (w == -2) {
            pair_close(s->pair);
            return;
        }
        if (w == -1)
            return;
        s->rest_off += w;
        s->rest_len -= w;
    }
    free(s->rest);
    s->rest = NULL;
    if (s->peer->ended) {
        pair_close(s->pair);
        return;
    }
    pair_arm(s->pair);
    forward(s->peer); /* also for what OpenSSL holds */
}

static void pair_ready(struct pair *p)
{
    if (p->client.handshaking || p->upstream.handshaking)
        return;
    pair_arm(p);
#ifdef WITH_TLS
    if (p->client.ssl && SSL_has_pending(p->client.ssl))
        forward(&p->client);
#endif
}

static void handshake(struct side *s)
{
#ifdef WITH_TLS
    int n = SSL_do_handshake(s->ssl), e;
    if (n == 1) {
        s->handshaking = 0;
        arm(s, 0);
        pair_ready(s->pair);
        return;
    }
    e = SSL_get_error(s->ssl, n);
    ERR_clear_error();
    if (e == SSL_ERROR_WANT_READ)
        arm(s, EPOLLIN);
    else if (e == SSL_ERROR_WANT_WRITE)
        arm(s, EPOLLOUT);
    else
        pair_close(s->pair);
#else
    (void)s;
#endif
}

static void side_init(struct side *s, struct pair *p, struct side *peer, int fd)
{
    int one = 1;
    struct epoll_event ev = {.events = 0, .data.ptr = s};
    s->fd = fd;
    s->pair = p;
    s->peer = peer;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
        die("epoll_ctl");
}

static void accepted(int fd)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(upstream_port)};
    int up = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pair *p = calloc(1, sizeof *p);
    if (up < 0 || !p)
        die("socket");
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    /* A blocking connect: on loopback the kernel completes it at once, whatever the other process does. */
    if (connect(up, (struct sockaddr *)&to, sizeof to) < 0) {
        close(up);
        close(fd);
        free(p);
        return;
    }
    if (fcntl(up, F_SETFL, O_NONBLOCK) < 0)
        die("fcntl");
    side_init(&p->client, p, &p->upstream, fd);
    side_init(&p->upstream, p, &p->client, up);
#ifdef WITH_TLS
    if (server_ctx) {
        p->client.ssl = SSL_new(server_ctx);
        SSL_set_fd(p->client.ssl, fd);
        SSL_set_accept_state(p->client.ssl);
        p->client.handshaking = 1;
        arm(&p->client, EPOLLIN);
        return;
    }
    if (client_ctx) {
        p->upstream.ssl = SSL_new(client_ctx);
        SSL_set_fd(p->upstream.ssl, up);
        SSL_set_connect_state(p->upstream.ssl);
        SSL_set_tlsext_host_name(p->upstream.ssl, peer_name);
        SSL_set1_host(p->upstream.ssl, peer_name);
        p->upstream.handshaking = 1;
        handshake(&p->upstream);
        return;
    }
#endif
    pair_ready(p);
}

#ifdef WITH_TLS
static SSL_CTX *make_ctx(int server, char **files, int count)
{
    SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    const char *ca = count > 2 ? files[2] : NULL;
    if (!c || !SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256") ||
        SSL_CTX_use_certificate_chain_file(c, files[0]) != 1 ||
        SSL_CTX_use_PrivateKey_file(c, files[1], SSL_FILETYPE_PEM) != 1 ||
        (ca && SSL_CTX_load_verify_locations(c, ca, NULL) != 1)) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    if (ca)
        SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_read_ahead(c, 1); /* one receive a record, not two */
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    return c;
}
#endif

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS];
    int one = 1, listener;
    if (argc < 3) {
        fprintf(stderr, "usage: floor LISTEN UPSTREAM [server CERT KEY [CA] | client CERT KEY CA NAME]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    upstream_port = atoi(argv[2]);
    if (argc > 3) {
#ifdef WITH_TLS
        if (!strcmp(argv[3], "server") && argc >= 6)
            server_ctx = make_ctx(1, argv + 4, argc - 4);
        else if (!strcmp(argv[3], "client") && argc == 8) {
            client_ctx = make_ctx(0, argv + 4, 3);
            peer_name = argv[7];
        } else
            return 2;
#else
        fprintf(stderr, "floor: built without TLS\n");
        return 2;
#endif
    }
    at.sin_port = htons(atoi(argv[1]));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 4096) < 0)
        die("listen");
    ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev) < 0)
        die("epoll");
    for (;;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct side *s = events[i].data.ptr;
            unsigned what = events[i].events;
            if (!s) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd >= 0)
                    accepted(fd);
                continue;
            }
            if (s->pair->dead)
                continue;
            if (s->handshaking)
                handshake(s);
            else if (s->rest_len && (what & (EPOLLOUT | EPOLLHUP | EPOLLERR)))
                flush_rest(s);
            else if ((s->armed & EPOLLIN) && (what & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                forward(s);
            else if (what & (EPOLLHUP | EPOLLERR))
                pair_close(s->pair); /* both directions are gone: nothing left to wait for */
        }
        while (dead) {
            struct pair *next = dead->next_dead;
            free(dead);
            dead = next;
        }
    }
}
