/* Walks over the octets of a body, 64 at a time, in wide registers of the machine.
 *
 * Promise: reads p[at..stop) alone, and p[at - 1] if the walk is `resumed`; writes out[0..stop - at + spare) alone. All
 * variants find the same; `portable` is plain C for any machine. tests/reference has what it must be equal to.
 *
 * How: walk.h has the walk, and is included here once for each variant. VECTOR is a register, LANES of them make 64
 * octets. LOAD and STORE need no alignment. EQUAL sets all bits of the octets that are equal and clears the others
 * (portable: their top bits), as AND, OR and XOR go on. BITS makes one word of the top bits of 64 octets, the first
 * octet lowest; ANY tells whether one is set. TOP_BIT makes of any octets what BITS can take.
 */
#ifndef POSTROIKA_OCTETS_H
#define POSTROIKA_OCTETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline))
#define RARELY(condition) __builtin_expect((condition), 0)

/* Octets of the line that is open, its CR included; octets of the longest line so far, without CR LF. */
struct lines {
    ptrdiff_t open, longest;
};

/* What is known between two octets of a body. */
struct walk {
    /* Of the octet in front: was it CR; did it end a line, so that the next one begins one. */
    uint64_t behind_cr, line_begins;
    /* It is p[at - 1]: this is not the first call for this piece. */
    int resumed;
    struct lines lines;
    unsigned char *out; /* where the next octet is copied to */
    size_t spare;       /* how many dots may be added */
    int bare_cr, bare_lf, nul, eight_bit;
};

/* What to do: a sum of these. To STUFF, a line begins behind any LF, nothing is measured, and of what is odd only bare
 * newlines are noted, as `bare_cr` or `bare_lf`. Otherwise a line begins behind CR LF. */
enum task {
    COPY = 1, /* to `out`, with a dot added to each that begins a line, or taken off */
    DOTS = 2, /* heed dots that begin a line; without COPY, stop in front of them */
    STUFF = 4,
    TASKS = 8
};

/* Returns where it stopped: `stop`; or in front of a dot that begins a line, which may be the final one (with COPY and
 * not STUFF; so is one whose line does not end before `stop`), or for which there is no `spare`. */
typedef size_t (*walker)(struct walk *walk, const unsigned char *p, size_t at, size_t stop);

struct variant {
    const char *name;
    int (*runs_here)(void);
    const walker *walkers; /* by task */
};

static ALWAYS_INLINE ptrdiff_t lowest(uint64_t word) { return __builtin_ctzll(word); }
static ALWAYS_INLINE ptrdiff_t lowest_or_64(uint64_t word) { return word ? __builtin_ctzll(word) : 64; }
static ALWAYS_INLINE ptrdiff_t above_highest(uint64_t word) { return word ? __builtin_clzll(word) : 64; }

/* Measures the lines in the next `size` octets; each bit of `ends` is the LF of one. */
static ALWAYS_INLINE void measure(struct lines *lines, uint64_t ends, ptrdiff_t size) {
    ptrdiff_t begin = -lines->open;
    for (; ends; ends &= ends - 1) {
        const ptrdiff_t length = lowest(ends) - 1 - begin;
        lines->longest = length > lines->longest ? length : lines->longest;
        begin = lowest(ends) + 1;
    }
    lines->open = size - begin;
}

#define JOINED_(what, variant) what##_##variant
#define JOINED(what, variant) JOINED_(what, variant)
#define NAMED(what) JOINED(what, VARIANT)

static int runs_anywhere(void) { return 1; }

#define VARIANT portable
#define TARGET
#define VECTOR uint64_t
#define LANES 8
#define EACH(octet) ((octet) * UINT64_C(0x0101010101010101))
static ALWAYS_INLINE uint64_t load_portable(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}
static ALWAYS_INLINE void store_portable(unsigned char *p, uint64_t word) { memcpy(p, &word, 8); }
static ALWAYS_INLINE uint64_t equal_portable(uint64_t word, unsigned char octet) {
    const uint64_t differs = word ^ EACH(octet);
    /* No carry leaves its octet, so that this is exact. */
    return ~(((differs & EACH(0x7f)) + EACH(0x7f)) | differs) & EACH(0x80);
}
static ALWAYS_INLINE uint64_t bits_portable(const uint64_t *words) {
    uint64_t bits = 0;
    for (int lane = 0; lane < 8; lane++) {
        uint64_t word = (words[lane] & EACH(0x80)) >> 7;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        /* Adds up eight shifted copies, of which the top octet gets one bit each. */
        bits |= (word * UINT64_C(0x0102040810204080) >> 56) << 8 * lane;
    }
    return bits;
}
#define LOAD load_portable
#define STORE store_portable
#define EQUAL equal_portable
#define AND(a, b) ((a) & (b))
#define OR(a, b) ((a) | (b))
#define XOR(a, b) ((a) ^ (b))
#define NOTHING 0
#define ANY(a) (((a) & EACH(0x80)) != 0)
#define BITS bits_portable
#define TOP_BIT(a) (a)
#include "walk.h"

#if defined(__x86_64__)

#define VARIANT sse2
#define TARGET
#define VECTOR __m128i
#define LANES 4
static ALWAYS_INLINE uint64_t bits_sse2(const __m128i *lanes) {
    uint64_t bits = 0;
    for (int lane = 0; lane < 4; lane++)
        bits |= (uint64_t)(unsigned int)_mm_movemask_epi8(lanes[lane]) << 16 * lane;
    return bits;
}
#define LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define STORE(p, a) _mm_storeu_si128((__m128i *)(p), a)
#define EQUAL(a, octet) _mm_cmpeq_epi8(a, _mm_set1_epi8(octet))
#define AND _mm_and_si128
#define OR _mm_or_si128
#define XOR _mm_xor_si128
#define NOTHING _mm_setzero_si128()
#define ANY(a) (_mm_movemask_epi8(a) != 0)
#define BITS bits_sse2
#define TOP_BIT(a) (a)
#include "walk.h"

/* Not wider: registers of 512 bits slow many processors down for the milliseconds after, and so everything else. */
#define VARIANT avx2
#define TARGET __attribute__((target("avx2,bmi")))
#define VECTOR __m256i
#define LANES 2
static ALWAYS_INLINE TARGET uint64_t bits_avx2(const __m256i *lanes) {
    return (unsigned int)_mm256_movemask_epi8(lanes[0]) | (uint64_t)(unsigned int)_mm256_movemask_epi8(lanes[1]) << 32;
}
static int runs_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
}
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, a) _mm256_storeu_si256((__m256i *)(p), a)
#define EQUAL(a, octet) _mm256_cmpeq_epi8(a, _mm256_set1_epi8(octet))
#define AND _mm256_and_si256
#define OR _mm256_or_si256
#define XOR _mm256_xor_si256
#define NOTHING _mm256_setzero_si256()
#define ANY(a) (_mm256_movemask_epi8(a) != 0)
#define BITS bits_avx2
#define TOP_BIT(a) (a)
#include "walk.h"

#elif defined(__aarch64__)

#define VARIANT neon
#define TARGET
#define VECTOR uint8x16_t
#define LANES 4
static ALWAYS_INLINE uint64_t bits_neon(const uint8x16_t *lanes) {
    /* No instruction gathers top bits: each octet gets the weight of its place among eight, and pairs are added up. */
    const uint8x16_t weight = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t low = vpaddq_u8(vandq_u8(lanes[0], weight), vandq_u8(lanes[1], weight));
    const uint8x16_t high = vpaddq_u8(vandq_u8(lanes[2], weight), vandq_u8(lanes[3], weight));
    const uint8x16_t sums = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)), 0);
}
#define LOAD vld1q_u8
#define STORE vst1q_u8
#define EQUAL(a, octet) vceqq_u8(a, vdupq_n_u8(octet))
#define AND vandq_u8
#define OR vorrq_u8
#define XOR veorq_u8
#define NOTHING vdupq_n_u8(0)
#define ANY(a) (vmaxvq_u8(a) > 127)
#define BITS bits_neon
#define TOP_BIT(a) vcltzq_s8(vreinterpretq_s8_u8(a))
#include "walk.h"

#endif

/* The best first. */
static const struct variant variants[] = {
#if defined(__x86_64__)
    {"avx2", runs_avx2, walkers_avx2},
    {"sse2", runs_anywhere, walkers_sse2},
#elif defined(__aarch64__)
    {"neon", runs_anywhere, walkers_neon},
#endif
    {"portable", runs_anywhere, walkers_portable},
};
enum { VARIANT_COUNT = sizeof variants / sizeof *variants };

#endif
