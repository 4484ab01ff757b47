"""Kubernetes quantities as numbers (k8s.io/apimachinery, pkg/api/resource)."""

from __future__ import annotations

from decimal import Decimal

_FACTORS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def parse_quantity(quantity: str | int) -> Decimal:
    """The number a quantity stands for: `2Gi` is 2147483648, `500m` is 0.5. Raises ValueError if it is none."""
    text = str(quantity)
    digits = text.rstrip("nukmKMGTPEi")
    unit = text[len(digits) :]
    if unit not in _FACTORS:
        raise ValueError(f"{text!r} is not a Kubernetes quantity such as 500m, 2 or 4Gi")
    try:
        return Decimal(digits) * _FACTORS[unit]
    except ArithmeticError:
        raise ValueError(f"{text!r} is not a Kubernetes quantity such as 500m, 2 or 4Gi") from None
