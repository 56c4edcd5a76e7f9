/* Coverage of code that gcc compiled with -fsanitize-coverage=trace-pc, as the inline counters that libFuzzer reads.
 *
 * Linked into each instrumented module, hidden, so that each counts for itself: gcc has no -fsanitize=fuzzer, but libFuzzer
 * (in atheris) takes counters from whoever registers them. A program counter is hashed to one of them.
 */
#include <stddef.h>
#include <stdint.h>

#define COUNTERS (1 << 14)
#define UNCOUNTED __attribute__((no_sanitize_coverage, no_sanitize("address")))

static uint8_t counters[COUNTERS];
static uintptr_t pcs[COUNTERS][2];

extern void __sanitizer_cov_8bit_counters_init(uint8_t *start, uint8_t *end);
extern void __sanitizer_cov_pcs_init(const uintptr_t *start, const uintptr_t *end);

__attribute__((visibility("hidden"))) UNCOUNTED void __sanitizer_cov_trace_pc(void) {
    /* relative to this module, so that a run repeats wherever the loader puts it */
    uint64_t pc = (uint64_t)((uintptr_t)__builtin_return_address(0) - (uintptr_t)&counters);
    counters[(pc * 0x9E3779B97F4A7C15ull) >> (64 - 14)]++;
}

__attribute__((constructor)) UNCOUNTED static void announce(void) {
    for (size_t i = 0; i < COUNTERS; i++) {
        pcs[i][0] = (uintptr_t)&counters[i];
        pcs[i][1] = 0;
    }
    __sanitizer_cov_8bit_counters_init(counters, counters + COUNTERS);
    __sanitizer_cov_pcs_init(&pcs[0][0], &pcs[0][0] + 2 * COUNTERS);
}
