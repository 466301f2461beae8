"""What prepared answers cost: the material made beforehand, the answer itself, and what is kept meanwhile."""

from hushlm.cost.prepared.price import ANSWERS, PreparedCost, price_prepared, price_prepared_passes

__all__ = ["ANSWERS", "PreparedCost", "price_prepared", "price_prepared_passes"]
