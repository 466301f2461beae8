/* Attention with row entropies on a CPU, forward and backward, streaming: nothing of size queries x keys is kept.

   Formulas and names as in hushlm/entropy/kernels/analytic.py. One task is one head of one sequence, taken by one thread from first
   to last row, so results have the same bits for any number of threads. Queries are taken in blocks, keys in tiles; causal blocks
   touch no key that none of a panel's rows may see. The backward pass computes scores again, with the same bits.

   Scores come in units of the kernel: for softmax s log2(e), so that w = 2^(s - m); for order n s / 2^n, so that u = 1 + s - m.
   `unit` is what one of them is in nats; the queries carry scale / unit. The power kernel is order n without maximum and clip, as if
   every maximum were 0: u = 1 + s, w = u^N + FLOOR. */
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "multiply.h"

#define QUERIES 96 /* rows a block: a multiple of MR */
#define KEYS 64    /* keys a tile: a multiple of a register tile's columns */

#define FLOOR 0x1p-10f /* POWER_FLOOR of hushlm/architectures.py */

enum { SOFTMAX, BOUNDED, POWER };

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(base) JOIN(base, VARIANT)

/* Tensors (batch, head, token, width) by their first three strides, the last being 1; rows (batch, head, token) are contiguous.
   Mirrored in hushlm/entropy/kernels/library.py. */
typedef struct {
  const float *at;
  int64_t step[3];
} tensor;

typedef struct {
  int64_t batch, heads, queries, keys, width, order, power, causal, threads; /* order 0 is softmax */
  tensor q, k, v, output, d_output, d_q, d_k, d_v;                    /* d_output may be null */
  const float *scale;                                                 /* by head and token */
  int64_t scale_step[2];
  float *entropy, *maximum, *total; /* rows, written by the forward pass */
  int32_t *first, *ties;            /* rows: first key at the maximum, and how many are */
  const float *d_entropy;           /* rows, may be null */
  float *d_scale;                   /* rows */
  float *scratch;
  int64_t scratch_floats; /* a thread */
} problem;

static long rounded(long count, long to) { return (count + to - 1) / to * to; }
static long smaller(long a, long b) { return a < b ? a : b; }

static float *of_head(const tensor *x, const problem *p, long task) {
  return (float *)x->at + task / p->heads * x->step[0] + task % p->heads * x->step[1];
}

static float unit_of(const problem *p) { return p->order ? (float)(1 << p->order) : 0.6931471806f; }

static int form_of(const problem *p) { return p->power ? POWER : p->order ? BOUNDED : SOFTMAX; }

/* What a logarithm of a weight counts in, in nats. */
static float log_unit_of(const problem *p) { return p->power ? 1 : unit_of(p); }

/* Rows of `x` into packed rows of whole vectors, zeros behind. */
static void pack(float *to, const float *x, long step, long rows, long all_rows, long width, long padded) {
  for (long i = 0; i < rows; i++) {
    memcpy(to + i * padded, x + i * step, sizeof(float) * (size_t)width);
    for (long e = width; e < padded; e++) to[i * padded + e] = 0;
  }
  memset(to + rows * padded, 0, sizeof(float) * (size_t)((all_rows - rows) * padded));
}

static float dot(const float *a, const float *b, long width) {
  vec sum = splat(0);
  long e = 0;
  for (; e + WIDTH <= width; e += WIDTH) sum += load(a + e) * load(b + e);
  float total = sum_of(sum);
  for (; e < width; e++) total += a[e] * b[e];
  return total;
}

/* Tiles of KEYS rows, each transposed: element (j, e) at e * KEYS + j. */
static void pack_transposed(float *to, const float *x, long step, long rows, long width) {
  for (long j0 = 0; j0 < rows; j0 += KEYS, to += KEYS * width) {
    const long count = smaller(KEYS, rows - j0);
    if (count < KEYS) memset(to, 0, sizeof(float) * (size_t)(KEYS * width));
    for (long e0 = 0; e0 < width; e0 += 16)
      for (long j = 0; j < count; j++)
        for (long e = e0; e < smaller(e0 + 16, width); e++) to[e * KEYS + j] = x[(j0 + j) * step + e];
  }
}

static void pack_queries(float *to, const problem *p, const float *q, long head, long i0, long rows, long padded) {
  const float per_unit = 1 / unit_of(p);
  for (long i = 0; i < rows; i++) {
    const float scale = p->scale[head * p->scale_step[0] + (i0 + i) * p->scale_step[1]] * per_unit;
    for (long e = 0; e < p->width; e++) to[i * padded + e] = q[(i0 + i) * p->q.step[2] + e] * scale;
    for (long e = p->width; e < padded; e++) to[i * padded + e] = 0;
  }
}

/* Keys that query i may see. */
static long seen_by(const problem *p, long i) { return p->causal ? p->keys - p->queries + i + 1 : p->keys; }

/* Keys of the tile at j0 that row i sees, from 0 to KEYS. */
static long seen_in(const problem *p, long i, long j0) {
  const long seen = seen_by(p, i) - j0;
  return seen < 0 ? 0 : smaller(seen, KEYS);
}

INLINE vec power(vec u, int order) {
  for (int n = 0; n < order; n++) u = u * u;
  return u;
}

static float maximum_of(const float *s, long seen) {
  vec top = splat(-__builtin_inff());
  long j = 0;
  for (; j + WIDTH <= seen; j += WIDTH) top = larger(top, load(s + j));
  float maximum = largest_of(top);
  for (; j < seen; j++) maximum = s[j] > maximum ? s[j] : maximum;
  return maximum;
}

/* The first key at the maximum, and how many there are. */
static void find_maximum(const float *s, long seen, float maximum, int32_t *first, int32_t *ties) {
  ivec count = isplat(0);
  for (long j = 0; j < seen; j += WIDTH) {
    ivec tied = load(s + j) >= splat(maximum);
    if (j + WIDTH > seen) tied &= first_lanes(seen - j);
    count -= tied;
  }
  int32_t total = 0;
  for (int lane = 0; lane < WIDTH; lane++) total += count[lane];
  *ties = total;
  *first = 0;
  while (total && s[*first] < maximum) ++*first;
}

/* log w in units: z for softmax, log u for order n, log w for the power kernel; finite where w is 0. */
INLINE vec log_weight(vec z, vec w, int form) {
  return form == SOFTMAX ? z : log_of(form == POWER ? w : larger(splat(1.17549435e-38f), z));
}

/* A row of scores becomes weights, zeros to `end`; their sum, and the sum of weight times log weight in units. */
INLINE void weigh(float *s, long seen, long end, float maximum, int form, int order, float *total, float *mixed) {
  vec sum = splat(0), sum_log = splat(0);
  for (long j = 0; j < seen; j += WIDTH) {
    vec w, log_w, z = load(s + j) - splat(maximum);
    if (form == SOFTMAX) {
      w = exp2_of(z);
    } else {
      z = form == POWER ? z + splat(1) : larger(splat(0), z + splat(1));
      w = form == POWER ? power(z, order) + splat(FLOOR) : power(z, order);
    }
    log_w = log_weight(z, w, form);
    if (j + WIDTH > seen) {
      const ivec inside = first_lanes(seen - j);
      w = keep(inside, w);
      log_w = keep(inside, log_w);
    }
    sum += w;
    sum_log += w * log_w;
    store(s + j, w);
  }
  for (long j = rounded(seen, WIDTH); j < end; j += WIDTH) store(s + j, splat(0));
  *total = sum_of(sum);
  *mixed = sum_of(sum_log);
}

static void forward_head(const problem *p, long task, float *scratch) {
  const long head = task % p->heads, padded = rounded(p->width, WIDTH), all_keys = rounded(p->keys, KEYS);
  const long row = all_keys + 2 * WIDTH + MR; /* of scores: rows are zero a little beyond what they see */
  const int form = form_of(p), order = (int)p->order;
  float *k_t = scratch, *v = k_t + all_keys * p->width, *q = v + all_keys * padded, *out = q + QUERIES * padded, *s = out + QUERIES * padded;
  const float *q_in = of_head(&p->q, p, task);
  float *output = of_head(&p->output, p, task);
  pack_transposed(k_t, of_head(&p->k, p, task), p->k.step[2], p->keys, p->width);
  pack(v, of_head(&p->v, p, task), p->v.step[2], p->keys, all_keys, p->width, padded);
  for (long i0 = 0; i0 < p->queries; i0 += QUERIES) {
    const long rows = smaller(QUERIES, p->queries - i0), limit = seen_by(p, i0 + rows - 1);
    pack_queries(q, p, q_in, head, i0, rows, padded);
    for (long j0 = 0; j0 < limit; j0 += KEYS)
      for (long i = 0; i < rows; i += MR) {
        const long count = smaller(MR, rows - i), columns = rounded(seen_in(p, i0 + i + count - 1, j0), WIDTH);
        multiply((int)count, columns, p->width, q + i * padded, padded, 1, k_t + j0 * p->width, KEYS, s + i * row + j0, row, 0);
      }
    for (long i = 0; i < rows; i++) {
      const long at = task * p->queries + i0 + i, seen = seen_by(p, i0 + i), end = smaller(rounded(seen + MR, WIDTH), row);
      float *scores = s + i * row, total, mixed;
      const float maximum = form == POWER ? 0 : maximum_of(scores, seen);
      if (form == POWER) {
        weigh(scores, seen, end, maximum, POWER, order, &total, &mixed);
      } else if (form == BOUNDED) {
        find_maximum(scores, seen, maximum, p->first + at, p->ties + at);
        weigh(scores, seen, end, maximum, BOUNDED, order, &total, &mixed);
      } else {
        weigh(scores, seen, end, maximum, SOFTMAX, 0, &total, &mixed);
      }
      p->maximum[at] = maximum;
      p->total[at] = total;
      const float entropy = __builtin_logf(total) - log_unit_of(p) * mixed / total;
      p->entropy[at] = entropy < 0 ? 0 : entropy; /* rounding may leave -1e-8 */
    }
    for (long j0 = 0; j0 < limit; j0 += KEYS)
      for (long i = 0; i < rows; i += MR) {
        const long count = smaller(MR, rows - i), depth = seen_in(p, i0 + i + count - 1, j0);
        if (depth || !j0) multiply((int)count, padded, depth, s + i * row + j0, row, 1, v + j0 * padded, padded, out + i * padded, padded, j0 > 0);
      }
    for (long i = 0; i < rows; i++) {
      const float share = 1 / p->total[task * p->queries + i0 + i];
      for (long e = 0; e < p->width; e++) output[(i0 + i) * p->output.step[2] + e] = out[i * padded + e] * share;
    }
  }
}

/* A row of scores and one of d_output . v / Z (or zeros) become w and dS, zeros to `end`; adds up dS over the row for order n. */
INLINE void differentiate(float *s, float *d, long seen, long end, float maximum, float of_log, float of_one, int form, int order,
                          int with_entropy, float *slack) {
  vec lost = form == BOUNDED ? load(slack) : splat(0);
  for (long j = 0; j < seen; j += WIDTH) {
    vec w, slope, z = load(s + j) - splat(maximum);
    if (form != SOFTMAX) {
      z = form == POWER ? z + splat(1) : larger(splat(0), z + splat(1));
      vec square = z;
      slope = z;
      for (int n = 1; n < order; n++) {
        square = square * square;
        slope = slope * square;
      }
      w = form == POWER ? slope * z + splat(FLOOR) : slope * z;
    } else {
      slope = w = exp2_of(z);
    }
    vec of_w = load(d + j) + splat(of_one);
    if (with_entropy) of_w += splat(of_log) * log_weight(z, w, form);
    vec of_s = of_w * slope;
    if (j + WIDTH > seen) {
      const ivec inside = first_lanes(seen - j);
      w = keep(inside, w);
      of_s = keep(inside, of_s);
    }
    lost += of_s;
    store(s + j, w);
    store(d + j, of_s);
  }
  for (long j = rounded(seen, WIDTH); j < end; j += WIDTH) {
    store(s + j, splat(0));
    store(d + j, splat(0));
  }
  if (form == BOUNDED) store(slack, lost);
}

/* Order n only: a row's maximum takes what its scores lost together, shared by the tied keys. */
static void through_maximum(const problem *p, long at, long seen, float lost, const float *q, float *d_q, const float *k, const float *k_t,
                            float *d_k, long padded) {
  const int32_t ties = p->ties[at];
  const float share = lost / (float)(ties ? ties : 1);
  const long from = ties == 1 ? p->first[at] / KEYS * KEYS : 0;
  for (long j0 = from; j0 < (ties == 1 ? smaller(from + KEYS, seen) : seen); j0 += KEYS) {
    float s[KEYS];
    const long count = smaller(KEYS, seen - j0);
    if (ties != 1) multiply(1, rounded(count, WIDTH), p->width, q, padded, 1, k_t + j0 * p->width, KEYS, s, KEYS, 0);
    for (long j = 0; j < count; j++)
      if (ties == 1 ? j0 + j == p->first[at] : s[j] >= p->maximum[at])
        for (long e = 0; e < padded; e++) {
          d_q[e] -= share * k[(j0 + j) * padded + e];
          d_k[(j0 + j) * padded + e] -= share * q[e];
        }
  }
}

static void backward_head(const problem *p, long task, float *scratch) {
  const long head = task % p->heads, padded = rounded(p->width, WIDTH), all_keys = rounded(p->keys, KEYS);
  const long row = KEYS + 2 * WIDTH + MR, first_seen = p->causal ? p->keys - p->queries : p->keys;
  const int form = form_of(p), order = (int)p->order, with_output = p->d_output.at != 0;
  float *k_t = scratch, *k = k_t + all_keys * p->width, *v_t = k + all_keys * padded, *d_k = v_t + all_keys * p->width;
  float *d_v = d_k + all_keys * padded, *q = d_v + all_keys * padded, *d_q = q + QUERIES * padded, *d_out = d_q + QUERIES * padded;
  float *s = d_out + QUERIES * padded, *d = s + QUERIES * row, *slack = d + QUERIES * row, *of_one = slack + QUERIES * WIDTH;
  float *of_log = of_one + QUERIES;
  const float *q_in = of_head(&p->q, p, task), *output = of_head(&p->output, p, task), unit = unit_of(p);
  const float *d_output = with_output ? of_head(&p->d_output, p, task) : 0;
  pack_transposed(k_t, of_head(&p->k, p, task), p->k.step[2], p->keys, p->width);
  pack(k, of_head(&p->k, p, task), p->k.step[2], p->keys, all_keys, p->width, padded);
  if (with_output) pack_transposed(v_t, of_head(&p->v, p, task), p->v.step[2], p->keys, p->width);
  memset(d_k, 0, sizeof(float) * (size_t)(2 * all_keys * padded));
  for (long i0 = 0; i0 < p->queries; i0 += QUERIES) {
    const long rows = smaller(QUERIES, p->queries - i0), limit = seen_by(p, i0 + rows - 1);
    pack_queries(q, p, q_in, head, i0, rows, padded);
    memset(d_q, 0, sizeof(float) * (size_t)(QUERIES * padded));
    memset(slack, 0, sizeof(float) * (size_t)(QUERIES * WIDTH));
    for (long i = 0; i < rows; i++) {
      const long at = task * p->queries + i0 + i;
      const float per_total = 1 / p->total[at], g = p->d_entropy ? p->d_entropy[at] : 0;
      float along = 0;
      if (with_output) {
        const float *from = d_output + (i0 + i) * p->d_output.step[2];
        along = dot(from, output + (i0 + i) * p->output.step[2], p->width);
        for (long e = 0; e < p->width; e++) d_out[i * padded + e] = from[e] * per_total;
        for (long e = p->width; e < padded; e++) d_out[i * padded + e] = 0;
      }
      of_one[i] = -(along + g * (p->entropy[at] - __builtin_logf(p->total[at]))) * per_total;
      of_log[i] = -g * per_total * log_unit_of(p);
    }
    for (long j0 = 0; j0 < limit; j0 += KEYS) {
      const long keys = smaller(KEYS, limit - j0);
      if (!with_output) memset(d, 0, sizeof(float) * (size_t)(QUERIES * row));
      for (long i = 0; i < rows; i += MR) {
        const long count = smaller(MR, rows - i), depth = seen_in(p, i0 + i + count - 1, j0), columns = rounded(depth, WIDTH);
        if (!depth) continue;
        multiply((int)count, columns, p->width, q + i * padded, padded, 1, k_t + j0 * p->width, KEYS, s + i * row, row, 0);
        if (with_output)
          multiply((int)count, columns, p->width, d_out + i * padded, padded, 1, v_t + j0 * p->width, KEYS, d + i * row, row, 0);
        for (long r = i; r < i + count; r++) {
          const long seen = seen_in(p, i0 + r, j0), end = smaller(rounded(seen + MR, WIDTH), row);
          const float maximum = p->maximum[task * p->queries + i0 + r];
          float *scores = s + r * row, *gradients = d + r * row, *lost = slack + r * WIDTH;
          if (form == POWER) {
            differentiate(scores, gradients, seen, end, maximum, of_log[r], of_one[r], POWER, order, p->d_entropy != 0, lost);
          } else if (form == BOUNDED) {
            differentiate(scores, gradients, seen, end, maximum, of_log[r], of_one[r], BOUNDED, order, p->d_entropy != 0, lost);
          } else {
            differentiate(scores, gradients, seen, end, maximum, of_log[r], of_one[r], SOFTMAX, 0, p->d_entropy != 0, lost);
          }
        }
        multiply((int)count, padded, depth, d + i * row, row, 1, k + j0 * padded, padded, d_q + i * padded, padded, 1);
      }
      for (long j = 0; j < keys; j += MR) { /* rows of the gradients are keys, and are summed over the queries that see them */
        const long count = smaller(MR, keys - j), start = j0 + j - first_seen - i0, from = start > 0 ? start : 0;
        float *to_k = d_k + (j0 + j) * padded, *to_v = d_v + (j0 + j) * padded;
        multiply((int)count, padded, rows - from, d + from * row + j, 1, row, q + from * padded, padded, to_k, padded, 1);
        if (with_output)
          multiply((int)count, padded, rows - from, s + from * row + j, 1, row, d_out + from * padded, padded, to_v, padded, 1);
      }
    }
    for (long i = 0; i < rows; i++) {
      const long at = task * p->queries + i0 + i;
      const float scale = p->scale[head * p->scale_step[0] + (i0 + i) * p->scale_step[1]];
      float *d_query = of_head(&p->d_q, p, task) + (i0 + i) * p->d_q.step[2];
      if (form == BOUNDED)
        through_maximum(p, at, seen_by(p, i0 + i), sum_of(load(slack + i * WIDTH)), q + i * padded, d_q + i * padded, k, k_t, d_k, padded);
      for (long e = 0; e < p->width; e++) d_query[e] = d_q[i * padded + e] * scale;
      p->d_scale[at] = dot(d_q + i * padded, q_in + (i0 + i) * p->q.step[2], p->width);
    }
  }
  float *d_key = of_head(&p->d_k, p, task), *d_value = of_head(&p->d_v, p, task);
  for (long j = 0; j < p->keys; j++)
    for (long e = 0; e < p->width; e++) {
      d_key[j * p->d_k.step[2] + e] = d_k[j * padded + e] * unit;
      d_value[j * p->d_v.step[2] + e] = d_v[j * padded + e];
    }
}

/* Floats of scratch a thread needs. */
int64_t NAME(hush_scratch)(const problem *p, int backward) {
  const long padded = rounded(p->width, WIDTH), all_keys = rounded(p->keys, KEYS), margin = 2 * WIDTH + MR;
  if (backward) return all_keys * (2 * p->width + 3 * padded) + QUERIES * (3 * padded + 2 * (KEYS + margin) + WIDTH + 2) + 16;
  return all_keys * (p->width + padded) + QUERIES * (2 * padded + all_keys + margin) + 16;
}

void NAME(hush_attention)(const problem *p, int backward) {
  const long tasks = p->batch * p->heads;
#ifdef _OPENMP
#pragma omp parallel num_threads((int)p->threads)
#endif
  {
#ifdef _OPENMP
    float *scratch = p->scratch + omp_get_thread_num() * p->scratch_floats;
#pragma omp for schedule(dynamic)
#else
    float *scratch = p->scratch;
#endif
    for (long task = 0; task < tasks; task++) backward ? backward_head(p, task, scratch) : forward_head(p, task, scratch);
  }
}

#ifdef DISPATCH
/* sha256 of the sources this was compiled from. */
const char *hush_fingerprint(void) { return FINGERPRINT; }

/* The widest variant this processor runs: 2 AVX-512, 1 AVX2 with FMA, 0 neither. */
int hush_level(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}
#endif
