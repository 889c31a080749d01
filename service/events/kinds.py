"""What a kind of event counts: an operator's list such as ``view=1,purchase=2,skip=-0.5``."""

import math
import re
from collections.abc import Mapping

_PART = re.compile(r"\s*([A-Za-z0-9_.-]{1,32})\s*=\s*([^=]+)")


def read_kinds(text: str) -> Mapping[str, float]:
    """The weight of each kind: above 0 the user wanted the item, below 0 not; 0 is stored and counts nothing.

    Raises:
        ValueError: the text is no such list.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(
                f"{part.strip()!r} is no kind of event with its weight; write them like 'view=1,skip=-0.5'"
            )
        try:
            weights[found[1]] = float(found[2])
        except ValueError:
            raise ValueError(f"the weight of {found[1]!r} is no number; write it like '{found[1]}=1'") from None
        if not math.isfinite(weights[found[1]]) or abs(weights[found[1]]) > 10:
            raise ValueError(f"the weight of {found[1]!r} is not from -10 to 10; lower it")
    return weights
