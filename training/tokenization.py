"""Item vectors of all domains -> a fitted tokenizer, a SID of its own for every item, and a report.

Knows methods by their name only (``training.tokenizers``); does not know texts.

Shapes: N item, D item vector dim, L level.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidera.items.assignment import AssignmentReport, assign_sids
from sidera.tokenizers import ItemTokenizer, save_tokenizer
from training.collaborative import CfVectors
from training.errors import ConfigError, DataError
from training.progress import track
from training.tokenization_items import Fields
from training.tokenization_report import tokenization_report, write_report
from training.tokenizers import read_config
from training.tokenizers.common import held_out


@dataclass(frozen=True)
class Tokenization:
    """What tokenizing all domains gives.

    Attributes:
        tokenizer: fitted on all domains together.
        sids: int32[N, L] per domain, unique within it, in the order of its items.
        assignments: what making them unique took, per domain.
        report: the figures, as in ``tokenization.json``.
    """

    tokenizer: ItemTokenizer
    sids: Mapping[str, np.ndarray]
    assignments: Mapping[str, AssignmentReport]
    report: Mapping[str, Any]


def fit_tokenizer(
    vectors_by_domain: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    folder: Path,
    cf_by_domain: CfVectors | None = None,
) -> ItemTokenizer:
    """Fit the method that the settings name on the items of all domains together.

    The order of the domains does not matter. A killed fit goes on where it was when it is called again; a finished one
    of the same vectors and settings is read back.

    Args:
        vectors_by_domain: float[N, D] each.
        settings: the ``tokenizer`` section of a config: ``method``, ``preset`` and the method's own settings.
        folder: for checkpoints.
        cf_by_domain: collaborative vectors float32[N, C] each, rows of NaN for items without one; for methods whose
            config has a ``cf_source``.

    Raises:
        ConfigError: a setting is not known or refused, or a domain has more items than there are SIDs.
        DataError: vectors with NaN or infinity, or of different widths.
    """
    method, config = read_config(settings)
    if not vectors_by_domain:
        raise DataError("there are no domains to fit a tokenizer on; give at least one")
    check_capacity({name: len(vectors_ND) for name, vectors_ND in vectors_by_domain.items()}, settings)
    return method.fit(vectors_by_domain, config, folder, cf_by_domain or {})


def tokenize(
    vectors_by_domain: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    folder: Path,
    cf_by_domain: CfVectors | None = None,
    fields_by_domain: Mapping[str, Fields] | None = None,
) -> Tokenization:
    """Fit, give every item of every domain its SID, and write tokenizer and report.

    Writes ``folder / "tokenizer"`` (config.json, weights.safetensors) and ``folder / "report"`` (tokenization.json,
    tokenization.html). With ``fields_by_domain``, the fields of every item, the report says what codes mean in words.

    Raises:
        ConfigError, DataError: as :func:`fit_tokenizer`.
    """
    tokenizer = fit_tokenizer(vectors_by_domain, settings, folder, cf_by_domain)
    _, config = read_config(settings)
    names = sorted(vectors_by_domain)
    sids, assignments = {}, {}
    with track("unique SIDs", len(names)) as advance:
        for name in names:
            sids[name], assignments[name] = assign_sids(tokenizer, vectors_by_domain[name], name)
            advance(1, name)
    sizes = [len(vectors_by_domain[name]) for name in names]
    held_out_N = held_out(sum(sizes), config.validation_share, config.seed)
    held_out_by_domain = dict(zip(names, np.split(held_out_N, np.cumsum(sizes)[:-1]), strict=True))
    in_order = {name: vectors_by_domain[name] for name in names}
    report = tokenization_report(
        tokenizer, in_order, sids, assignments, held_out_by_domain, cf_by_domain, fields_by_domain
    )
    save_tokenizer(tokenizer, folder / "tokenizer")
    write_report(report, folder / "report")
    return Tokenization(tokenizer, sids, assignments, report)


def check_capacity(items_by_domain: Mapping[str, int], settings: Mapping[str, Any]) -> None:
    """Whether every domain's items get a SID each; asked before hours are spent on vectors.

    Raises:
        ConfigError: a domain has more items than there are SIDs, or the settings are refused.
    """
    _, config = read_config(settings)
    capacity = config.capacity(len(items_by_domain))
    for name, items in items_by_domain.items():
        if items > capacity:
            raise ConfigError(
                f"domain {name!r} has {items} items, but tokenizer.codebook_sizes {list(config.codebook_sizes)} "
                f"make {capacity} SIDs; set larger codebooks or more levels"
            )
