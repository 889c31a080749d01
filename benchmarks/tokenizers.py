"""``python -m benchmarks.tokenizers --data DIR --domains A,B [--unseen C,D] --out FILE.json``: tokenizers on items.

What every method does to the items of domains that its fit sees, and of domains that it does not: SIDs that are left
shared, collisions before that, use of codebooks, reconstruction errors, CKA, parameters, speed, times. Every fit and
every measured part is kept in ``--work``, so that a killed run goes on. To measure a fit anew, delete its folder there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.harness import Figure, report
from benchmarks.tokenizer_data import BenchItems, read_bench_items
from benchmarks.tokenizer_figures import (
    cka_figures,
    collision_figures,
    error_comparison,
    error_figures,
    fit_figures,
    parameter_figures,
    single_figures,
    speed_figures,
    unique_figures,
    use_figures,
)
from benchmarks.tokenizer_fits import (
    FULL,
    PRESET,
    QUICK,
    REFERENCE,
    Extent,
    Fitted,
    Plan,
    calibrated,
    calibration_plans,
    chosen_methods,
    fit_plan,
    reference_plan,
)
from benchmarks.tokenizer_measure import (
    count_single_differs,
    measure_cka,
    measure_errors,
    measure_unique,
    measure_use,
    mixed_vectors,
    of_sizes,
)
from benchmarks.tokenizer_sizes import count_parameters
from benchmarks.tokenizer_speed import measure_speed
from benchmarks.tokenizer_store import kept, say
from sidera.embedding import DEFAULT_ENCODER, EncoderSpec
from sidera.errors import SideraError
from sidera.tokenizers import ItemTokenizer
from training.errors import TrainingError
from training.tokenizers import METHODS

LEAST_PARAMETER_RATIO = {384: 9.5, 768: 9.6}
"""By width of the item vectors."""

_FULL_SIZES = "paper"
_EXPERTS = 10
_CODEBOOK_SIZES = (256, 256, 256, 256)
_JUDGED_UNSEEN = ("gencdr", "unitok")
_JUDGED_SEEN = ("unitok",)


def main(
    data: Annotated[Path, typer.Option(help="Holds one folder a domain.")],
    domains: Annotated[str, typer.Option(help="The tokenizers are fitted on these, such as office14,beauty.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as JSON.")],
    unseen: Annotated[str, typer.Option(help="Domains that no fit sees.")] = "",
    methods: Annotated[str, typer.Option(help="Tokenizer methods; all, if none is named.")] = "",
    work: Annotated[Path | None, typer.Option(help="Keeps fits and measured parts; default: OUT.work.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="Keeps item vectors; default: WORK/vectors.")] = None,
    encoder: Annotated[str, typer.Option(help="Makes the item vectors: a name or a folder.")] = DEFAULT_ENCODER,
    encoder_tokens: Annotated[int, typer.Option(help="The encoder cuts longer texts there.")] = EncoderSpec.max_tokens,
    quick: Annotated[bool, typer.Option("--quick", help="The same on less; no figures of quality.")] = False,
) -> None:
    """Measure what the tokenizers do to items."""
    extent = QUICK if quick else FULL
    spec = EncoderSpec(name=encoder, max_tokens=encoder_tokens)
    work = work or out.with_name(out.name + ".work")
    # The vectors of a few items must not take the place of those of all.
    vectors = (vectors or work / "vectors") / "quick" if quick else vectors or work / "vectors"
    work = work / "quick" if quick else work
    try:
        chosen = chosen_methods(_names(methods))
        items = read_bench_items(data, _names(domains), _names(unseen), spec, vectors, work, extent.items)
        bench = TokenizerBench(items, extent, work)
        figures = bench.measure(chosen)
    except (SideraError, TrainingError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="bold red", markup=False)
        raise typer.Exit(1) from None
    report("Tokenizers", figures, out, bench.context())


class TokenizerBench:
    """Fits tokenizers, measures them, and tells the figures.

    Attributes:
        items: what is measured on.
        extent: how much is measured.
        work: keeps fits and measured parts.
        fits: those that are done, by their plans' names.
    """

    def __init__(self, items: BenchItems, extent: Extent, work: Path) -> None:
        self.items = items
        self.extent = extent
        self.work = work
        self.fits: dict[str, Fitted] = {}

    def measure(self, methods: Sequence[str]) -> dict[str, Figure]:
        """All figures of the methods, cheap ones first."""
        seed = self.extent.seeds[0]
        figures: dict[str, Figure] = {}
        if "unitok" in methods:
            figures |= _parameters()
        for method in methods:
            figures |= self._method_figures(method, seed)
        if self.extent.quality:
            for method in methods:
                if method != REFERENCE and (method in _JUDGED_UNSEEN or REFERENCE in methods):
                    figures |= self._comparison(method, seed)
            for method in filter(calibrated, methods):
                figures |= self._calibration(method)
        return figures

    def context(self) -> dict[str, object]:
        """What else a reader needs: domains, settings of the fits, what they were fitted on."""
        return {
            "quick": not self.extent.quality,
            "preset": PRESET,
            "extent": dataclasses.asdict(self.extent),
            "domains": {
                name: {"items": len(vectors_ND), "seen": seen}
                for seen, of in ((True, self.items.seen), (False, self.items.unseen))
                for name, vectors_ND in of.items()
            },
            "dim": self.items.dim,
            "data": self.items.digest,
            "fits": {
                name: {
                    "settings": dataclasses.asdict(fitted.config),
                    "codebook_sizes": list(fitted.tokenizer.codebook_sizes),
                    "tokenizer": fitted.time["tokenizer"],
                }
                for name, fitted in self.fits.items()
            },
        }

    def _method_figures(self, method: str, seed: int) -> dict[str, Figure]:
        fitted = self._fitted(Plan(method, seed))
        tokenizer, vectors = fitted.tokenizer, {**self.items.seen, **self.items.unseen}
        figures: dict[str, Figure] = {}
        for kind, of in (("seen", self.items.seen), ("unseen", self.items.unseen)):
            unique = self._kept(fitted, f"unique-{kind}", {}, functools.partial(measure_unique, tokenizer, of))
            figures |= unique_figures(method, kind, unique)
            if self.extent.quality:
                figures |= collision_figures(method, kind, unique)
        if self.extent.quality:
            figures |= fit_figures(method, fitted.time, _settings_note(fitted))
            use = self._kept(fitted, "use", {}, lambda: measure_use(tokenizer, self.items, fitted.config))
            figures |= use_figures(method, use)
            figures |= error_figures(method, self._errors(fitted), tokenizer.codebook_sizes)
        how = {"rows": self.extent.single_rows}
        single = self._kept(fitted, "single", how, lambda: count_single_differs(tokenizer, vectors, **how))
        return figures | single_figures(method, single) | self._speed(fitted)

    def _speed(self, fitted: Fitted) -> dict[str, Figure]:
        method, tokenizer = fitted.plan.method, fitted.tokenizer
        how = {"rows": self.extent.speed_rows, "runs": self.extent.speed_runs, "threads": 1}

        def measured(of: ItemTokenizer) -> dict[str, Any]:
            mixed_ND = mixed_vectors(self.items.seen, self.extent.speed_rows)
            return measure_speed(of, mixed_ND, next(iter(self.items.seen)), self.extent.speed_runs)

        presets = METHODS[method].presets
        if not presets:
            speed = self._kept(fitted, "speed", how, lambda: measured(tokenizer))
            return speed_figures(method, None, speed)
        speed = self._kept(fitted, f"speed-{PRESET}", how, lambda: measured(tokenizer))
        figures = speed_figures(method, PRESET, speed, _layers(tokenizer))
        if _FULL_SIZES in presets:
            full = of_sizes(tokenizer, presets[_FULL_SIZES])
            key = {**how, "sizes": full.config()}
            speed = self._kept(fitted, f"speed-{_FULL_SIZES}", key, lambda: measured(full))
            figures |= speed_figures(method, _FULL_SIZES, speed, f"{_layers(full)}, random weights")
        return figures

    def _comparison(self, method: str, seed: int) -> dict[str, Figure]:
        """Errors beside the reference's at the same number of codes."""
        fitted = self._fitted(Plan(method, seed))
        reference = self._fitted(reference_plan(len(fitted.tokenizer.codebook_sizes), seed))
        figures: dict[str, Figure] = {}
        if reference.plan.variant:
            name = f"{REFERENCE}_{reference.plan.variant}"
            figures |= error_figures(name, self._errors(reference), reference.tokenizer.codebook_sizes)
        return figures | error_comparison(
            method,
            self._errors(fitted),
            fitted.tokenizer.codebook_sizes,
            self._errors(reference),
            reference.tokenizer.codebook_sizes,
            judged_seen=method in _JUDGED_SEEN,
            judged_unseen=method in _JUDGED_UNSEEN,
        )

    def _calibration(self, method: str) -> dict[str, Figure]:
        pairs = {}
        figures: dict[str, Figure] = {}
        for plan, without in calibration_plans(method, self.extent.seeds):
            fits = [self._fitted(plan), self._fitted(without)]
            pairs[plan.seed] = (self._cka(fits[0]), self._cka(fits[1]))
            for fitted in fits:
                if fitted.plan != Plan(method, self.extent.seeds[0]):
                    figures |= fit_figures(fitted.plan.name, fitted.time, _settings_note(fitted))
        return figures | cka_figures(method, pairs)

    def _cka(self, fitted: Fitted) -> dict[str, Any]:
        how = {"most": self.extent.cka_items}
        return self._kept(fitted, "cka", how, lambda: measure_cka(fitted.tokenizer, self.items, fitted.config, **how))

    def _errors(self, fitted: Fitted) -> dict[str, Any]:
        return self._kept(fitted, "errors", {}, lambda: measure_errors(fitted.tokenizer, self.items, fitted.config))

    def _fitted(self, plan: Plan) -> Fitted:
        if plan.name not in self.fits:
            self.fits[plan.name] = fit_plan(plan, self.items, self.extent, self.work)
        return self.fits[plan.name]

    def _kept(
        self, fitted: Fitted, part: str, how: Mapping[str, object], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        key = {"part": part, "fit": fitted.digest, "how": dict(how)}

        def told() -> dict[str, Any]:
            say(f"{fitted.plan.name}: {part}")
            return measure()

        return kept(fitted.folder / f"{part}.json", key, told)


def _parameters() -> dict[str, Figure]:
    sizes = METHODS["unitok"].presets[_FULL_SIZES]
    layers, latent_dim = sizes["hidden_sizes"], sizes["latent_dim"]
    counts = {
        dim: count_parameters(dim, _EXPERTS, _CODEBOOK_SIZES, latent_dim, layers) for dim in LEAST_PARAMETER_RATIO
    }
    layers_told = ", ".join(map(str, [*layers, latent_dim]))
    note = (
        f"{_EXPERTS} domains, layers {layers_told}; every expert and the shared one with {len(_CODEBOOK_SIZES)} x 256"
    )
    return parameter_figures(counts, LEAST_PARAMETER_RATIO, note)


def _settings_note(fitted: Fitted) -> str:
    if not METHODS[fitted.plan.method].presets:
        return "no presets"
    epochs = {
        name: value for name, value in dataclasses.asdict(fitted.config).items() if name.endswith("epochs") and value
    }
    return f"preset {PRESET}; at most " + ", ".join(f"{name} {value}" for name, value in epochs.items())


def _layers(tokenizer: ItemTokenizer) -> str:
    sizes = tokenizer.config()
    return f"encoder {', '.join(map(str, [sizes['dim'], *sizes['hidden_sizes'], sizes['latent_dim']]))}"


def _names(listed: str) -> list[str]:
    return [name for part in listed.split(",") if (name := part.strip())]


if __name__ == "__main__":
    typer.run(main)
