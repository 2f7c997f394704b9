/* Tells libFuzzer which instructions of an instrumented kernel were reached. GCC calls __sanitizer_cov_trace_pc in each
 * block of code, and nothing else that libFuzzer still understands; libFuzzer wants an octet for each block, to count in,
 * and a table of their addresses. Here each four octets of the kernel's code have one.
 *
 * What is compared with what goes on to libFuzzer as it is. Its functions look at the address that they return to: they
 * must be jumped to, which takes an optimising compiler. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static uintptr_t code_begin;
static size_t code_size;
static uint8_t *counters;

static void (*cmp1)(uint8_t, uint8_t), (*cmp2)(uint16_t, uint16_t), (*cmp4)(uint32_t, uint32_t);
static void (*cmp8)(uint64_t, uint64_t), (*const_cmp1)(uint8_t, uint8_t), (*const_cmp2)(uint16_t, uint16_t);
static void (*const_cmp4)(uint32_t, uint32_t), (*const_cmp8)(uint64_t, uint64_t), (*in_switch)(uint64_t, uint64_t *);

void __sanitizer_cov_trace_pc(void) {
    const uintptr_t at = (uintptr_t)__builtin_return_address(0) - code_begin;
    if (at < code_size)
        counters[at / 4]++;
}

void __sanitizer_cov_trace_cmp1(uint8_t a, uint8_t b) { cmp1(a, b); }
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { cmp2(a, b); }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { cmp4(a, b); }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { cmp8(a, b); }
void __sanitizer_cov_trace_const_cmp1(uint8_t a, uint8_t b) { const_cmp1(a, b); }
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { const_cmp2(a, b); }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { const_cmp4(a, b); }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { const_cmp8(a, b); }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) { in_switch(value, cases); }
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

/* `fuzzer` has libFuzzer's functions in the order of the names above, then the two that take the counters and the
 * addresses. Before any instrumented code runs. */
int forward_to(void **fuzzer) {
    cmp1 = fuzzer[0], cmp2 = fuzzer[1], cmp4 = fuzzer[2], cmp8 = fuzzer[3];
    const_cmp1 = fuzzer[4], const_cmp2 = fuzzer[5], const_cmp4 = fuzzer[6], const_cmp8 = fuzzer[7];
    in_switch = fuzzer[8];
    return 0;
}

/* Count from now on in the code from `begin` to `end`. */
int count_in(
    void (*take_counters)(uint8_t *, uint8_t *), void (*take_places)(uintptr_t *, uintptr_t *), uintptr_t begin,
    uintptr_t end
) {
    const size_t count = (end - begin) / 4 + 1;
    uintptr_t *places = malloc(count * 2 * sizeof *places);
    counters = calloc(count, 1);
    if (!places || !counters)
        return -1;
    for (size_t i = 0; i < count; i++) {
        places[2 * i] = begin + 4 * i;
        places[2 * i + 1] = 0; /* not the entry of a function */
    }
    take_counters(counters, counters + count);
    take_places(places, places + 2 * count);
    code_begin = begin;
    code_size = end - begin;
    return 0;
}
