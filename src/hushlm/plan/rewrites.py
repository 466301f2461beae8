"""How a private program is written: rewrites that keep the function of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HUSH", "PUBLISHED", "Rewrites"]


@dataclass(frozen=True)
class Rewrites:
    """How the program is written. Every one keeps the function of the checkpoint, up to fixed point and the stated GELU error.

    Attributes:
        absorb_ffns: linear FFNs without LayerNorm before them vanish into the neighbouring maps (a moving basis of the residual stream).
        explicit_ffns: layers whose linear FFN is computed all the same, because absorbing it would be ill-conditioned.
        last_row_only: in the last layer, queries, FFN and head are computed for the row to be predicted, not for all.
        triangle: only the scores of the lower triangle go through row maximum and exponential; otherwise the whole square does.
        divide_late: normalise after the product with V (T x E products a head instead of T x T).
        fold_affine: LayerNorm's gain and bias folded into the next linear map.
        encoded_bytes: the server's memory for the encoded weights of one product; buffers take as much again. Products are cut to
            fit: the fewest bytes within it, at the price of more work. The default keeps a GPT-2 small server, with 2 GB of weights,
            under 6 GB; 6e9 and more leaves its products whole.
        one_product_decode: all heads of a single row share one product, against a block-diagonal query.
        exponential: "built-in" (the engine's, with cheap squarings, where there are enough elements to fill them) or
            "written-out" (repeated x * x, as its examples do).
        reciprocal: of a softmax's row sums, "polynomial" (comparisons with powers of two, then products) or "built-in" (the engine's).
        row_products: sums of squares and products by a number of each row, as products of "matrices" or of "numbers". Matrices move
            a third to two thirds of the bytes, for the server's and the client's time of about as many more products.
        gelu: "quartic" (x/2 plus a quartic in |x| inside |x| < 3.3, |x|/2 outside) or "tanh".
    """

    absorb_ffns: bool = True
    explicit_ffns: tuple[int, ...] = ()
    last_row_only: bool = True
    triangle: bool = True
    divide_late: bool = True
    fold_affine: bool = True
    encoded_bytes: float = 2e9
    one_product_decode: bool = True
    exponential: Literal["built-in", "written-out"] = "built-in"
    reciprocal: Literal["polynomial", "built-in"] = "polynomial"
    row_products: Literal["matrices", "numbers"] = "matrices"
    gelu: Literal["quartic", "tanh"] = "quartic"


HUSH = Rewrites()
PUBLISHED = Rewrites(
    absorb_ffns=False,
    last_row_only=False,
    triangle=False,
    divide_late=False,
    fold_affine=False,
    one_product_decode=False,
    exponential="written-out",
    reciprocal="built-in",
    row_products="numbers",
    gelu="tanh",
)
"""The engine's plain forms, as its own transformer examples write them."""
