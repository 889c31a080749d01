"""Made-up sequences with the lengths of real ones, for figures that depend on shapes alone.

Shapes: E events, L levels.
"""

import numpy as np

from sidera.model.vocabulary import Vocabulary
from training.sequences import TrainingSequences

CODEBOOK_SIZES = (256, 256, 256, 256)
DOMAIN = "made-up"


def vocabulary_behind(rows: int) -> Vocabulary:
    """Four levels of 256 codes and one domain, behind so many rows of a backbone."""
    return Vocabulary(CODEBOOK_SIZES, {DOMAIN: 0}, base=rows)


def made_up_walks(users: int, longest: int, seed: int) -> TrainingSequences:
    """Users of one domain with random items; lengths as in the Amazon sets: median 6, a few long ones."""
    random = np.random.default_rng(seed)
    lengths = np.clip(np.exp(random.normal(np.log(6.0), 0.6, size=users)), 3, longest).astype(np.int64)
    events = int(lengths.sum())
    codes_EL = np.stack([random.integers(size, size=events) for size in CODEBOOK_SIZES], axis=1).astype(np.int32)
    begin_S = np.concatenate([[0], lengths.cumsum()])
    return TrainingSequences(np.zeros(events, np.int32), codes_EL, np.ones(events, np.bool_), begin_S)
