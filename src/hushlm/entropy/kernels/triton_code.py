"""The device code of `hushlm.entropy.kernels.triton`; importing it needs triton.

Every kernel takes contiguous float32 tensors (N, tokens, width) and rows (N, T); heads N are the grid's second axis. PADDED is the
head width rounded up to a power of 2, ORDER is 0 for exact softmax, POWER says that there is neither row maximum nor clip, PRECISION is
that of products. The row maximum is found again by equality, so all kernels compute a tile of scores in the same shape. Formulas as in
`hushlm.entropy.kernels.analytic`.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from hushlm.architectures import POWER_FLOOR

LOWEST = tl.constexpr(-1e30)  # the score of a key that must not be seen, finite, so that 0 times it is 0
FLOOR = tl.constexpr(POWER_FLOOR)
TINY = tl.constexpr(2e-38)  # a normal number, as float32


@triton.jit
def _rows(x, head, first, tokens, width, PADDED: tl.constexpr, COUNT: tl.constexpr):
    """Rows `first` to `first` + COUNT of a head, zeros outside the tensor."""
    row = first + tl.arange(0, COUNT)
    column = tl.arange(0, PADDED)
    inside = (row[:, None] < tokens) & (column[None, :] < width)
    return tl.load(x + (head * tokens + row[:, None]) * width + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store_rows(x, value, head, first, tokens, width, PADDED: tl.constexpr, COUNT: tl.constexpr):
    row = first + tl.arange(0, COUNT)
    column = tl.arange(0, PADDED)
    inside = (row[:, None] < tokens) & (column[None, :] < width)
    tl.store(x + (head * tokens + row[:, None]) * width + column[None, :], value, mask=inside)


@triton.jit
def _scores(q, k, i0, j0, queries, keys, CAUSAL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr):
    """A tile of scores, LOWEST where a key must not be seen, and which may be."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    i = i0 + tl.arange(0, QUERIES)
    j = j0 + tl.arange(0, KEYS)
    seen = (j[None, :] < keys) & (i[:, None] < queries)
    if CAUSAL:
        seen = seen & (j[None, :] <= i[:, None] + keys - queries)
    return tl.where(seen, s, LOWEST), seen


@triton.jit
def _weights(z, seen, ORDER: tl.constexpr, POWER: tl.constexpr):
    """w, dw/dz and log w of z = s - m, or of z = s for the power kernel; log w is 0 where w is."""
    if ORDER == 0:
        w = tl.where(seen, tl.exp(z), 0.0)
        slope = w
        log_w = tl.where(seen, z, 0.0)
    else:
        scale: tl.constexpr = 2**ORDER
        u = 1 + z / scale
        if not POWER:
            seen = seen & ~(u < 0)  # not (u > 0): what is not a number stays so
        u = tl.where(seen, u, 0.0)
        square = u
        slope = u
        for _ in tl.static_range(ORDER - 1):
            square = square * square
            slope = slope * square
        w = slope * u
        if POWER:
            w = tl.where(seen, w + FLOOR, 0.0)
            log_w = tl.where(seen, tl.log(tl.maximum(w, FLOOR)), 0.0)
        else:
            log_w = tl.where(w == 0, 0.0, scale * tl.log(tl.maximum(u, TINY)))
    return w, slope, log_w


@triton.jit
def forward(
    q, k, v, output, maximum, total, entropy, queries, keys, width,
    PADDED: tl.constexpr, ORDER: tl.constexpr, POWER: tl.constexpr, CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output, and row maximum, total and entropy. Softmax rescales as the maximum grows; order n first looks for it."""
    i0, head = tl.program_id(0) * QUERIES, tl.program_id(1)
    q_block = _rows(q, head, i0, queries, width, PADDED, QUERIES)
    limit = keys
    if CAUSAL:
        limit = tl.minimum(keys, i0 + QUERIES + keys - queries)
    top = tl.full((QUERIES,), 0.0 if POWER else LOWEST, tl.float32)
    if (ORDER > 0) & (not POWER):
        for j0 in range(0, limit, KEYS):
            s, _ = _scores(q_block, _rows(k, head, j0, keys, width, PADDED, KEYS), i0, j0, queries, keys, CAUSAL, QUERIES, KEYS, PRECISION)
            top = tl.maximum(top, tl.max(s, 1))
    sum_w = tl.zeros((QUERIES,), tl.float32)
    sum_log = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, PADDED), tl.float32)
    for j0 in range(0, limit, KEYS):
        s, seen = _scores(q_block, _rows(k, head, j0, keys, width, PADDED, KEYS), i0, j0, queries, keys, CAUSAL, QUERIES, KEYS, PRECISION)
        if ORDER == 0:
            higher = tl.maximum(top, tl.max(s, 1))
            fall = tl.where(sum_w > 0, top - higher, 0.0)
            shrink = tl.exp(fall)
            sum_log = shrink * (sum_log + fall * sum_w)  # every log w falls with the maximum
            sum_w = shrink * sum_w
            mixed = shrink[:, None] * mixed
            top = higher
        w, _, log_w = _weights(s - top[:, None], seen, ORDER, POWER)
        sum_w += tl.sum(w, 1)
        sum_log += tl.sum(w * log_w, 1)
        mixed += tl.dot(w, _rows(v, head, j0, keys, width, PADDED, KEYS), input_precision=PRECISION)
    row = i0 + tl.arange(0, QUERIES)
    inside = row < queries
    sum_w = tl.where(inside, sum_w, 1.0)
    entropy_nats = tl.log(sum_w) - sum_log / sum_w
    _store_rows(output, mixed / sum_w[:, None], head, i0, queries, width, PADDED, QUERIES)
    tl.store(maximum + head * queries + row, top, mask=inside)
    tl.store(total + head * queries + row, sum_w, mask=inside)
    tl.store(entropy + head * queries + row, tl.where(entropy_nats < 0, 0.0, entropy_nats), mask=inside)


@triton.jit
def _differentiate(
    q_block, k_block, v_block, d_block, maximum, of_log, of_one, head, i0, j0, queries, keys,
    ORDER: tl.constexpr, POWER: tl.constexpr, CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights of a tile, gradients of its scores without the row maximum's share, and which scores are at the maximum."""
    row = i0 + tl.arange(0, QUERIES)
    inside = row < queries
    top = tl.load(maximum + head * queries + row, mask=inside, other=0.0)
    slope_log = tl.load(of_log + head * queries + row, mask=inside, other=0.0)
    constant = tl.load(of_one + head * queries + row, mask=inside, other=0.0)
    s, seen = _scores(q_block, k_block, i0, j0, queries, keys, CAUSAL, QUERIES, KEYS, PRECISION)
    w, slope, log_w = _weights(s - top[:, None], seen, ORDER, POWER)
    d_w = tl.dot(d_block, tl.trans(v_block), input_precision=PRECISION) + slope_log[:, None] * log_w + constant[:, None]
    return w, tl.where(seen, d_w * slope, 0.0), seen & (s >= top[:, None])


@triton.jit
def backward_queries(
    q, k, v, d_output, maximum, of_log, of_one, share, d_q, queries, keys, width,
    PADDED: tl.constexpr, ORDER: tl.constexpr, POWER: tl.constexpr, CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries; for order n also what each key at the row maximum gives back, `share`."""
    i0, head = tl.program_id(0) * QUERIES, tl.program_id(1)
    q_block = _rows(q, head, i0, queries, width, PADDED, QUERIES)
    d_block = _rows(d_output, head, i0, queries, width, PADDED, QUERIES)
    limit = keys
    if CAUSAL:
        limit = tl.minimum(keys, i0 + QUERIES + keys - queries)
    gradient = tl.zeros((QUERIES, PADDED), tl.float32)
    at_maximum = tl.zeros((QUERIES, PADDED), tl.float32)
    lost = tl.zeros((QUERIES,), tl.float32)
    ties = tl.zeros((QUERIES,), tl.float32)
    for j0 in range(0, limit, KEYS):
        k_block = _rows(k, head, j0, keys, width, PADDED, KEYS)
        _, d_s, tied = _differentiate(
            q_block, k_block, _rows(v, head, j0, keys, width, PADDED, KEYS), d_block, maximum, of_log, of_one, head, i0, j0, queries, keys,
            ORDER, POWER, CAUSAL, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
        gradient += tl.dot(d_s, k_block, input_precision=PRECISION)
        if (ORDER > 0) & (not POWER):
            tied = tied.to(tl.float32)
            at_maximum += tl.dot(tied, k_block, input_precision=PRECISION)
            lost += tl.sum(d_s, 1)
            ties += tl.sum(tied, 1)
    if (ORDER > 0) & (not POWER):
        each = lost / tl.maximum(ties, 1.0)
        gradient -= each[:, None] * at_maximum
        row = i0 + tl.arange(0, QUERIES)
        tl.store(share + head * queries + row, each, mask=row < queries)
    _store_rows(d_q, gradient, head, i0, queries, width, PADDED, QUERIES)


@triton.jit
def backward_keys(
    q, k, v, d_output, maximum, of_log, of_one, share, d_k, d_v, queries, keys, width,
    PADDED: tl.constexpr, ORDER: tl.constexpr, POWER: tl.constexpr, CAUSAL: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and of their values, over all queries that see them; after `backward_queries`."""
    j0, head = tl.program_id(0) * KEYS, tl.program_id(1)
    k_block = _rows(k, head, j0, keys, width, PADDED, KEYS)
    v_block = _rows(v, head, j0, keys, width, PADDED, KEYS)
    first = 0
    if CAUSAL:
        first = tl.maximum(0, j0 - (keys - queries)) // QUERIES * QUERIES
    of_keys = tl.zeros((KEYS, PADDED), tl.float32)
    of_values = tl.zeros((KEYS, PADDED), tl.float32)
    for i0 in range(first, queries, QUERIES):
        q_block = _rows(q, head, i0, queries, width, PADDED, QUERIES)
        d_block = _rows(d_output, head, i0, queries, width, PADDED, QUERIES)
        w, d_s, tied = _differentiate(
            q_block,
            k_block,
            v_block,
            d_block,
            maximum,
            of_log,
            of_one,
            head,
            i0,
            j0,
            queries,
            keys,
            ORDER,
            POWER,
            CAUSAL,
            QUERIES,
            KEYS,
            PRECISION,
        )
        if (ORDER > 0) & (not POWER):
            row = i0 + tl.arange(0, QUERIES)
            each = tl.load(share + head * queries + row, mask=row < queries, other=0.0)
            d_s -= tl.where(tied, each[:, None], 0.0)
        of_keys += tl.dot(tl.trans(d_s), q_block, input_precision=PRECISION)
        of_values += tl.dot(tl.trans(w), d_block, input_precision=PRECISION)
    _store_rows(d_k, of_keys, head, j0, keys, width, PADDED, KEYS)
    _store_rows(d_v, of_values, head, j0, keys, width, PADDED, KEYS)
