/* CRC-32 (that of zlib, gzip and Ethernet) by carry-less multiplication, where the processor has it.

   Promise: crc32_long(crc, at, size) is what zlib's crc32 is; it takes whole blocks of 16 octets, 64 at the least, and
   only where crc32_is_fast() said yes. How: the message is folded, 64 octets at a time, onto four remainders of 128 bits,
   these onto one, and that is reduced to 32 bits (Barrett).
   Source: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009. */

#ifndef POSTROIKA_CRC32_H
#define POSTROIKA_CRC32_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <emmintrin.h>
#include <smmintrin.h>
#include <wmmintrin.h>

static int crc32_is_fast(void)
{
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

#define POSTROIKA_FOLD(x, k, next) \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next)

__attribute__((target("pclmul,sse4.1")))
static uint32_t crc32_long(uint32_t crc, const unsigned char *at, size_t size)
{
    /* x^n mod P, bit-reflected: for 512 + 64 and 512, for 128 + 64 and 128, for 64; then P and its reciprocal. */
    const __m128i by_512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_64 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i reduction = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low_32 = _mm_set_epi32(0, -1, 0, -1);
    const __m128i *block = (const __m128i *)at;
    __m128i a, b, c, d, t;

    a = _mm_xor_si128(_mm_loadu_si128(block), _mm_cvtsi32_si128((int)~crc));
    b = _mm_loadu_si128(block + 1);
    c = _mm_loadu_si128(block + 2);
    d = _mm_loadu_si128(block + 3);
    for (block += 4, size -= 64; size >= 64; block += 4, size -= 64) {
        a = POSTROIKA_FOLD(a, by_512, _mm_loadu_si128(block));
        b = POSTROIKA_FOLD(b, by_512, _mm_loadu_si128(block + 1));
        c = POSTROIKA_FOLD(c, by_512, _mm_loadu_si128(block + 2));
        d = POSTROIKA_FOLD(d, by_512, _mm_loadu_si128(block + 3));
    }
    a = POSTROIKA_FOLD(a, by_128, b);
    a = POSTROIKA_FOLD(a, by_128, c);
    a = POSTROIKA_FOLD(a, by_128, d);
    for (; size >= 16; block += 1, size -= 16)
        a = POSTROIKA_FOLD(a, by_128, _mm_loadu_si128(block));

    /* 128 bits to 64 … */
    t = _mm_clmulepi64_si128(a, by_128, 0x10);
    a = _mm_xor_si128(_mm_srli_si128(a, 8), t);
    t = _mm_srli_si128(a, 4);
    a = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low_32), by_64, 0x00), t);
    /* … to 32 */
    t = _mm_clmulepi64_si128(_mm_and_si128(a, low_32), reduction, 0x10);
    t = _mm_clmulepi64_si128(_mm_and_si128(t, low_32), reduction, 0x00);
    a = _mm_xor_si128(a, t);
    return ~(uint32_t)_mm_extract_epi32(a, 1);
}

#else

static int crc32_is_fast(void)
{
    return 0;
}

static uint32_t crc32_long(uint32_t crc, const unsigned char *at, size_t size)
{
    (void)at;
    (void)size;
    return crc;
}

#endif
#endif
