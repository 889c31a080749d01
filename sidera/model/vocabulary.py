"""Which token stands for what: the rows that Sidera adds to a backbone's vocabulary.

``base`` rows of the backbone's own come first (none for a scratch backbone), then padding, ``<any_domain>``, 32 rows
for domains (so that adding a domain never resizes anything), then one contiguous slice of codes a level, so that the
output head of a level is a slice too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sidera.errors import BackboneError

DOMAIN_ROWS = 32


@dataclass(frozen=True)
class Vocabulary:
    """The token of every code and domain.

    Attributes:
        codebook_sizes: how many codes each level has.
        domains: row (0..31) of each domain that training saw.
        base: rows of the backbone's own vocabulary.
    """

    codebook_sizes: tuple[int, ...]
    domains: Mapping[str, int] = field(default_factory=dict)
    base: int = 0

    def __post_init__(self) -> None:
        rows = sorted(self.domains.values())
        if len(rows) > DOMAIN_ROWS or rows != sorted(set(rows)) or any(not 0 <= row < DOMAIN_ROWS for row in rows):
            raise BackboneError(
                f"{len(rows)} domains do not fit the {DOMAIN_ROWS} reserved rows 0..{DOMAIN_ROWS - 1}; "
                "train fewer domains, or let the smallest ones use <any_domain>"
            )

    @property
    def pad(self) -> int:
        return self.base

    @property
    def any_domain(self) -> int:
        return self.base + 1

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def size(self) -> int:
        """Rows of the embedding, the backbone's own included."""
        return self.first_code(self.num_levels)

    @property
    def tokens_per_item(self) -> int:
        return 1 + self.num_levels

    def domain_token(self, domain: str) -> int:
        """The token of a domain; ``<any_domain>`` for one that training never saw."""
        row = self.domains.get(domain)
        return self.any_domain if row is None else self.base + 2 + row

    def first_code(self, level: int) -> int:
        """The token of code 0 of a level (0-based)."""
        return self.base + 2 + DOMAIN_ROWS + sum(self.codebook_sizes[:level])

    def item_tokens(self, domain: str, sid: Sequence[int]) -> list[int]:
        """``domain sid``: the 1 + L tokens of one item of a history."""
        codes = [self.first_code(level) + code for level, code in enumerate(sid)]
        return [self.domain_token(domain), *codes]
