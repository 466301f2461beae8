/* Products of small matrices: register tiles of MR rows times LANES vectors, everything else streams through the first cache.

   C (rows x columns, row stride c_row) = or += A (rows x depth) B (depth x columns, row stride b_row).
   Element (i, k) of A is a[i * a_row + k * a_step], so A may be a transposed view. Columns are whole vectors. Every element of C is
   summed in the order of k, whatever the tile, so recomputed scores have the bits they had before. */
#ifndef HUSH_MULTIPLY_H
#define HUSH_MULTIPLY_H

#include "vector.h"

#if WIDTH == 4 && LANES == 2
#define MR 4
#else
#define MR 6
#endif

INLINE void tile(int rows, int lanes, long depth, const float *a, long a_row, long a_step, const float *b, long b_row, float *c, long c_row,
                 int add) {
  vec sum[MR][LANES];
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
    for (int j = 0; j < lanes; j++) sum[i][j] = add ? load(c + i * c_row + j * WIDTH) : splat(0);
  for (long k = 0; k < depth; k++) {
    vec right[LANES];
#pragma GCC unroll 8
    for (int j = 0; j < lanes; j++) right[j] = load(b + j * WIDTH);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
      const vec left = splat(a[i * a_row]);
#pragma GCC unroll 8
      for (int j = 0; j < lanes; j++) sum[i][j] += left * right[j];
    }
    a += a_step;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
    for (int j = 0; j < lanes; j++) store(c + i * c_row + j * WIDTH, sum[i][j]);
}

#define TILE_OF(ROWS)                                                                                                         \
  static void tiles_##ROWS(int lanes, long depth, const float *a, long a_row, long a_step, const float *b, long b_row, float *c, \
                           long c_row, int add) {                                                                             \
    switch (lanes) {                                                                                                          \
      case 1: tile(ROWS, 1, depth, a, a_row, a_step, b, b_row, c, c_row, add); break;                                         \
      case 2: tile(ROWS, 2, depth, a, a_row, a_step, b, b_row, c, c_row, add); break;                                         \
      case 3: if (LANES >= 3) tile(ROWS, LANES < 3 ? 1 : 3, depth, a, a_row, a_step, b, b_row, c, c_row, add); break;         \
      default: if (LANES >= 4) tile(ROWS, LANES < 4 ? 1 : 4, depth, a, a_row, a_step, b, b_row, c, c_row, add); break;        \
    }                                                                                                                         \
  }
TILE_OF(1)
TILE_OF(2)
TILE_OF(3)
TILE_OF(4)
#if MR > 4
TILE_OF(5)
TILE_OF(6)
#endif

/* One panel: at most MR rows. */
static void multiply(int rows, long columns, long depth, const float *a, long a_row, long a_step, const float *b, long b_row, float *c,
                     long c_row, int add) {
  for (long j = 0; j < columns; j += LANES * WIDTH) {
    const long left = (columns - j) / WIDTH;
    const int lanes = left < LANES ? (int)left : LANES;
    switch (rows) {
      case 1: tiles_1(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
      case 2: tiles_2(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
      case 3: tiles_3(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
      case 4: tiles_4(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
#if MR > 4
      case 5: tiles_5(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
      default: tiles_6(lanes, depth, a, a_row, a_step, b + j, b_row, c + j, c_row, add); break;
#endif
    }
  }
}

#endif
