"""Which tokenizers are fitted for the benchmark, in which order, and the fits: kept, and resumed after a kill.

Knows methods by ``training.tokenizers.METHODS`` alone; does not know what is measured of a tokenizer.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tokenizer_data import BenchItems
from benchmarks.tokenizer_store import digest_of, kept, say, timed_fit
from sidera.tokenizers import ItemTokenizer, load_tokenizer, save_tokenizer, tokenizer_digest
from training.errors import ConfigError, StageError
from training.tokenizers import METHODS, read_config
from training.tokenizers.common import TokenizerConfig

PRESET = "cpu"
"""The sizes that are fitted."""
CALIBRATED = "calibrated"
"""The variant of a method that has a calibration loss, and does not use it unless asked."""

_CALIBRATION = {"calibration_weight": 100.0}
REFERENCE = "rqvae"
"""What errors are compared with."""

_CHEAP_FIRST = ("rqkmeans", "rqvae", "letter", "gencdr", "unitok")
_QUICK_EPOCHS = 2


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        items: of a domain, at most, the first ones; None: all.
        most_epochs: every count of epochs among a method's settings is cut to this; None: as the preset has it.
        seeds: of the fits that are compared by CKA; the first is the seed of everything else.
        cka_items: held-out items of a domain, at most.
        speed_rows, speed_runs: vectors that are encoded in a run, and how many runs.
        single_rows: of a domain, encoded alone and in a batch.
        quality: whether a fit of this extent says something about collisions, errors, use, CKA and times of fits.
    """

    items: int | None = None
    most_epochs: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    cka_items: int = 512
    speed_rows: int = 50_000
    speed_runs: int = 5
    single_rows: int = 200
    quality: bool = True


FULL = Extent()
QUICK = Extent(
    items=1_000,
    most_epochs=_QUICK_EPOCHS,
    seeds=(0,),
    speed_rows=4_000,
    speed_runs=3,
    single_rows=50,
    quality=False,
)


@dataclass(frozen=True)
class Plan:
    """One fit.

    Attributes:
        method: see ``training.tokenizers.METHODS``.
        seed: of the fit.
        variant: ``""``: as the preset has it.
        more: settings of the variant.
    """

    method: str
    seed: int = 0
    variant: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in figures and folders."""
        return "-".join(part for part in (self.method, self.variant, f"seed{self.seed}") if part)

    def settings(self, extent: Extent) -> dict[str, Any]:
        """The ``tokenizer`` section of a config."""
        made = {"method": self.method, "seed": self.seed, **self.more}
        if METHODS[self.method].presets:
            made["preset"] = PRESET
        if extent.most_epochs is not None:
            _, config = read_config(made)
            epochs = {name: value for name, value in dataclasses.asdict(config).items() if name.endswith("epochs")}
            made |= {name: min(value, extent.most_epochs) for name, value in epochs.items() if isinstance(value, int)}
        return made


@dataclass(frozen=True)
class Fitted:
    """A fit that is done.

    Attributes:
        folder: where what is measured of it is kept.
        config: its settings.
        time: ``seconds``, ``runs``, ``stages`` and ``collaborative_seconds``.
        digest: of the tokenizer.
    """

    plan: Plan
    tokenizer: ItemTokenizer
    folder: Path
    config: TokenizerConfig
    time: Mapping[str, Any]
    digest: str


def chosen_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The methods asked for, all if none is named, cheap ones first.

    Raises:
        ConfigError: one is not known.
    """
    unknown = sorted(set(names) - set(METHODS))
    if unknown:
        raise ConfigError(f"--methods: {unknown[0]!r} is no tokenizer method; known: {', '.join(METHODS)}")
    places = {name: place for place, name in enumerate(_CHEAP_FIRST)}
    return tuple(sorted(names or METHODS, key=lambda name: places.get(name, len(places))))


def calibrated(method: str) -> bool:
    """Whether a method has a calibration loss."""
    return any(known.name == "calibration_weight" for known in dataclasses.fields(METHODS[method].config))


def calibration_plans(method: str, seeds: Sequence[int]) -> Iterator[tuple[Plan, Plan]]:
    """With calibration and without, of each seed."""
    for seed in seeds:
        yield Plan(method, seed, CALIBRATED, _CALIBRATION), Plan(method, seed)


def reference_plan(levels: int, seed: int) -> Plan:
    """The reference with SIDs of so many codes; as the preset has it where those are as many."""
    _, config = read_config({"method": REFERENCE})
    if len(config.codebook_sizes) == levels:
        return Plan(REFERENCE, seed)
    sizes = [max(config.codebook_sizes)] * levels
    return Plan(REFERENCE, seed, f"{levels}-codes", {"codebook_sizes": sizes})


def fit_plan(plan: Plan, items: BenchItems, extent: Extent, work: Path) -> Fitted:
    """Fit on the seen domains, or go on where a killed fit stopped, or read back a finished one.

    Raises:
        ConfigError: a setting is refused.
        StageError: what was kept of an earlier fit is not whole.
        TrainingError: the fit fails.
    """
    settings = plan.settings(extent)
    method, config = read_config(settings)
    folder = work / "fits" / plan.name
    key = {"settings": dataclasses.asdict(config), "method": plan.method, "data": items.seen_digest}
    saved = folder / "tokenizer"

    def fit() -> dict[str, Any]:
        say(f"{plan.name}: the fit")
        cf, cf_seconds = items.cf(config.cf_source)
        made, took = timed_fit(
            folder / "checkpoints", key, lambda checkpoints: method.fit(items.seen, config, checkpoints, cf)
        )
        save_tokenizer(made, saved)
        return {**dataclasses.asdict(took), "collaborative_seconds": cf_seconds, "tokenizer": tokenizer_digest(made)}

    times = kept(folder / "fit.json", key, fit)
    tokenizer = load_tokenizer(saved)
    if tokenizer_digest(tokenizer) != times["tokenizer"]:
        raise StageError(f"{saved} is not the tokenizer that {folder / 'fit.json'} tells of; delete {folder}")
    return Fitted(plan, tokenizer, folder, config, times, digest_of({"fit": times["tokenizer"], "data": items.digest}))
