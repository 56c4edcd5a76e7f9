/*
 * h2.h: the little of HTTP/2 that the instruments of bench/ share. They read frames and count; they decode no header
 * block: what they need of one they compare with bytes that they know.
 */
#ifndef BENCH_H2_H
#define BENCH_H2_H
#include <stdint.h>
#include <string.h>

#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#define H2_PREFACE_LEN 24
#define H2_FRAME_HEAD 9
#define H2_FRAME_MAX 16384 /* neither side announces more */
#define H2_WINDOW 65535    /* of a connection and a stream until told otherwise */
#define H2_WINDOW_MAX 0x7fffffff

enum {
    H2_DATA, H2_HEADERS, H2_PRIORITY, H2_RST_STREAM, H2_SETTINGS, H2_PUSH_PROMISE, H2_PING, H2_GOAWAY, H2_WINDOW_UPDATE,
    H2_CONTINUATION
};
enum { H2_ACK = 1, H2_END_STREAM = 1, H2_END_HEADERS = 4, H2_PADDED = 8, H2_HAS_PRIORITY = 32 };
enum { H2_HEADER_TABLE_SIZE = 1, H2_MAX_CONCURRENT_STREAMS = 3, H2_INITIAL_WINDOW_SIZE = 4 };

struct h2_frame {
    unsigned len, type, flags, stream;
    const unsigned char *payload;
};

static inline uint32_t h2_get32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline unsigned char *h2_put32(unsigned char *p, uint32_t value)
{
    p[0] = value >> 24;
    p[1] = value >> 16;
    p[2] = value >> 8;
    p[3] = value;
    return p + 4;
}

static inline unsigned char *h2_put_head(unsigned char *p, unsigned len, unsigned type, unsigned flags, uint32_t stream)
{
    p[0] = len >> 16;
    p[1] = len >> 8;
    p[2] = len;
    p[3] = type;
    p[4] = flags;
    return h2_put32(p + 5, stream);
}

/* Bytes of the first whole frame at p, 0 when it is not whole, -1 when it is larger than we allow. */
static inline int h2_frame_at(const unsigned char *p, unsigned long size, struct h2_frame *f)
{
    if (size < H2_FRAME_HEAD)
        return 0;
    f->len = (unsigned)p[0] << 16 | (unsigned)p[1] << 8 | p[2];
    if (f->len > H2_FRAME_MAX)
        return -1;
    if (size < H2_FRAME_HEAD + f->len)
        return 0;
    f->type = p[3];
    f->flags = p[4];
    f->stream = h2_get32(p + 5) & 0x7fffffff;
    f->payload = p + H2_FRAME_HEAD;
    return H2_FRAME_HEAD + f->len;
}

/* A field as a literal without Huffman: `first` is its kind with the index of a static name, or the kind alone and a
 * name. Names and values here are shorter than 127 bytes, indexes fit as `first` and `second` (-1: one byte). */
static inline unsigned char *h2_put_field(unsigned char *p, int first, int second, const char *name, const char *value)
{
    *p++ = first;
    if (second >= 0)
        *p++ = second;
    if (name) {
        *p++ = strlen(name);
        memcpy(p, name, strlen(name));
        p += strlen(name);
    }
    *p++ = strlen(value);
    memcpy(p, value, strlen(value));
    return p + strlen(value);
}
#endif
