"""Why an item is recommended, as an answer shows it."""

import math

from service.recommend_schemas import CodeExplained, Explanation, HistoryEffect, OtherCodeExplained, PartsExplained
from sidera.explain.item_explanation import ItemExplanation


def explanation_of(explanation: ItemExplanation) -> Explanation:
    """The same in the API's shape; an infinite effect is null, as JSON has no infinity."""
    parts = explanation.parts
    return Explanation(
        codes=[
            CodeExplained(
                code=code.code,
                universal=code.universal,
                domain=code.domain,
                others=[
                    OtherCodeExplained(code=other.code, universal=other.universal, domain=other.domain)
                    for other in code.others
                ],
            )
            for code in explanation.codes
        ],
        gamma=explanation.gamma,
        parts=PartsExplained(
            language_model=parts.language_model, followed=parts.followed, alike=parts.alike, popular=parts.popular
        ),
        history=[
            HistoryEffect(
                place=one.place,
                domain=one.domain,
                item_id=one.item_id,
                effect=one.effect if math.isfinite(one.effect) else None,
            )
            for one in explanation.history
        ],
    )
