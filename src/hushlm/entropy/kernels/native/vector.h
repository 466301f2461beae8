/* Vectors of floats by the compiler's vector extension, at the widest width this translation unit is compiled for. */
#ifndef HUSH_VECTOR_H
#define HUSH_VECTOR_H

#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH 16
#define LANES 4 /* vectors a row of a register tile */
#elif defined(__AVX2__)
#include <immintrin.h>
#define WIDTH 8
#define LANES 2
#elif defined(__SSE2__)
#include <immintrin.h>
#define WIDTH 4
#define LANES 2
#else
#define WIDTH 4
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef float unaligned_vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const unaligned_vec *)p; }
INLINE void store(float *p, vec x) { *(unaligned_vec *)p = x; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE ivec isplat(int32_t x) { return x - (ivec){0}; }

/* Lanes of `a` where the mask is all ones, 0 elsewhere. */
INLINE vec keep(ivec mask, vec a) { return (vec)(mask & (ivec)a); }

/* The larger of both; b where either is NaN, so a NaN in b survives. */
INLINE vec larger(vec a, vec b) {
#if defined(__AVX512F__)
  return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
  const ivec first = a > b;
  return (vec)((first & (ivec)a) | (~first & (ivec)b));
#endif
}

INLINE float sum_of(vec x) {
  float lane[WIDTH];
  store(lane, x);
  for (int half = WIDTH / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}

INLINE float largest_of(vec x) {
  float lane[WIDTH];
  store(lane, x);
  for (int half = WIDTH / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}

/* All ones in the first `count` lanes. */
INLINE ivec first_lanes(long count) {
  ivec lane;
  for (int i = 0; i < WIDTH; i++) lane[i] = i;
  return lane < isplat((int32_t)(count < WIDTH ? count : WIDTH));
}

/* 2^t for t <= 0, exactly 1 at 0 and 0 below 2^-126; NaN stays NaN. 2^f, |f| <= 1/2, by a polynomial of relative error 2e-9,
   fitted to weighted least error; adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits. */
INLINE vec exp2_of(vec t) {
  const vec rounder = splat(12582912.0f);
  const ivec alive = ~(t < splat(-126.0f));
  t = larger(splat(-126.0f), t);
  const vec shifted = t + rounder;
  const vec f = t - (shifted - rounder);
  vec p = splat(1.53533620e-04f);
  p = p * f + splat(1.33988747e-03f);
  p = p * f + splat(9.61843736e-03f);
  p = p * f + splat(5.55033247e-02f);
  p = p * f + splat(2.40226479e-01f);
  p = p * f + splat(6.93147203e-01f);
  p = p * f + splat(1.0f);
  return keep(alive, (vec)((ivec)p + ((ivec)shifted << 23)));
}

/* log u for positive normal u, exactly 0 at 1. u = 2^e (1 + f), f from sqrt(1/2) - 1 to sqrt(2) - 1, and
   log(1 + f) = f - f^2 / 2 + f^3 Q(f), Q fitted to an error of 4e-8 f^2. */
INLINE vec log_of(vec u) {
  const ivec e = (((ivec)u - isplat(0x3f3504f3)) >> 23);
  const vec f = (vec)((ivec)u - (e << 23)) - splat(1.0f);
  vec q = splat(0.08917868f);
  q = q * f + splat(-0.14350207f);
  q = q * f + splat(0.14876964f);
  q = q * f + splat(-0.16565634f);
  q = q * f + splat(0.19965398f);
  q = q * f + splat(-0.25001747f);
  q = q * f + splat(0.33333858f);
  const vec exponent = __builtin_convertvector(e, vec);
  return exponent * splat(6.93147181e-01f) + (f + f * f * (f * q + splat(-0.5f)));
}

#endif
