"""How a private program is written. All ways of writing it compute the function of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HUSH", "PUBLISHED", "Rewrites"]


@dataclass(frozen=True)
class Rewrites:
    """How a private program is written. Every choice keeps the function of the checkpoint, up to fixed point and the error of GELU.

    Attributes:
        absorb_ffns: whether linear feed-forward networks (FFNs) with no LayerNorm before them vanish into the neighbouring maps, by a
            moving basis of the residual stream.
        explicit_ffns: the layers whose linear FFN is computed nevertheless, because absorbing it would be ill-conditioned.
        last_row_only: whether the last layer computes queries, FFN and head only for the row to be predicted, and not for all rows.
        triangle: whether only the scores of the lower triangle go through row maximum and exponential; otherwise the whole square does.
        divide_late: whether attention weights are normalised after the product with V, which divides T x E numbers in each head instead
            of T x T.
        fold_affine: whether LayerNorm's gain and bias are folded into the next linear map.
        encoded_bytes: the server's memory for the encoded weights of one product; buffers take as much again. Products are cut so that
            they fit with the fewest bytes, at the price of more work. The default keeps a server of GPT-2 small, whose weights take 2 GB,
            under 6 GB; 6e9 and more leaves its products whole.
        one_product_decode: whether all heads of a single row share one product, with a block-diagonal query.
        exponential: "built-in" for the engine's own, whose squarings are cheap where there are enough elements to fill its ciphertexts,
            or "written-out" for repeated x * x, as in the engine's examples.
        reciprocal: how the row sums of a softmax are inverted: "polynomial" for comparisons with powers of two and a polynomial, or
            "built-in" for the engine's own.
        row_products: whether sums of squares, and products of each row with a number, are computed as products of "matrices" or of
            "numbers". Matrices move a third to two thirds of the bytes, but take both parties the time of about as many more products.
        gelu: "quartic" for x/2 plus a quartic in |x| inside |x| < 3.3 and |x|/2 outside, or "tanh" for the engine's own tanh. SiLU goes
            the same way, with another quartic.
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
"""The program as it is exported and run here."""

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
"""The program in the engine's plain forms, as the engine's own transformer examples are written."""
