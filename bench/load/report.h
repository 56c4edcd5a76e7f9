/*
 * report.h: what the load generators share: the clock, the samples and the JSON object that they print. Latencies are
 * in microseconds; any error makes a run worthless to its caller.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_SAMPLES (16u << 20) /* bounds memory: beyond it answers are counted, not timed */

static uint64_t answered, errors, bytes_in;
static uint32_t *samples; /* tenths of a microsecond */
static unsigned sample_count;
static char first_error[160];

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline void samples_make(void)
{
    samples = malloc(MAX_SAMPLES * sizeof *samples); /* touched only as far as used */
    if (!samples)
        die("malloc");
}

static inline void sample_add(uint64_t since)
{
    uint64_t tenths = (now_ns() - since) / 100;
    answered++;
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = tenths > UINT32_MAX ? UINT32_MAX : tenths;
}

static inline void error_add(const char *why)
{
    errors++;
    if (!first_error[0])
        snprintf(first_error, sizeof first_error, "%s (after %llu answers)", why, (unsigned long long)answered);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double p)
{
    unsigned i = (unsigned)(p * sample_count);
    if (!sample_count)
        return 0;
    return samples[i < sample_count ? i : sample_count - 1] / 10.0;
}

static inline void report(double seconds)
{
    char *c;
    double sum = 0;
    unsigned i;
    for (i = 0; i < sample_count; i++)
        sum += samples[i];
    qsort(samples, sample_count, sizeof *samples, by_value);
    for (c = first_error; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32)
            *c = '\'';
    printf("{\"answered\": %llu, \"errors\": %llu, \"error\": \"%s\", \"seconds\": %.6f, \"bytes\": %llu, \"mean\": %.1f, "
           "\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}\n",
           (unsigned long long)answered, (unsigned long long)errors, first_error, seconds, (unsigned long long)bytes_in,
           sample_count ? sum / sample_count / 10 : 0, percentile(.5), percentile(.9), percentile(.99), percentile(.999),
           percentile(1));
}
#endif
