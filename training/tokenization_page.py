"""The tokenization report as one HTML page that needs no other file and no network.

Knows the report's JSON object; does not know tokenizers or items. Every part of it is escaped in
``training.html_parts``, as titles and names are the user's data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from training import tokenization_plots as plots
from training.html_parts import details, heading, image, page, paragraph, section, table

_SHOWN_CODES = 30


def report_page(report: Mapping[str, Any]) -> str:
    """The page of a report that :func:`training.tokenization_report.tokenization_report` made."""
    sections = [
        _about(report),
        _collisions(report),
        _errors(report),
        _codes(report),
        _dependence(report),
        _routes(report),
        _maps(report),
        _categories(report),
        _collaborative(report),
        _words(report),
        _nearest(report),
    ]
    return page(f"Tokenization with {report['method']}", [section for section in sections if section])


def _about(report: Mapping[str, Any]) -> str:
    domains = report["domains"]
    return paragraph(
        f"{report['items']:,} items of {len(domains)} domains ({', '.join(domains)}) have semantic IDs with codebooks "
        f"of {' x '.join(map(str, report['codebook_sizes']))} codes. {report['held_out_items']:,} of the items were "
        f"held out of the fit. Tokenizer {report['tokenizer'][:12]}. tokenization.json beside this page has all "
        "figures."
    )


def _collisions(report: Mapping[str, Any]) -> str:
    columns = (
        "domain", "items", "identical vectors", "collisions before", "identical vectors apart", "collisions after",
        "moved per level", "extra error",
    )  # fmt: skip
    rows = [
        (
            name, _count(own["items"]), _count(own["identical_vectors"]), _percent(own["collision_rate_before"]),
            _percent(own["collision_rate_before_distinct_vectors"]), _percent(own["collision_rate_after"]),
            " / ".join(map(_count, own["moved_per_level"])), f"{own['extra_quantisation_error']:.4f}",
        )
        for name, own in _with_pooled(report)
    ]  # fmt: skip
    return section(
        "Collisions",
        "Items whose nearest codes are the same collide; they are moved apart, so that every item has an ID of its "
        "own. Few collisions before are good; after, there must be none. Items with identical vectors collide under "
        "any tokenizer. Extra error is what moving cost on average: squared distance of an item to its codes.",
        image(plots.collisions(report), "Collisions of each domain"),
        table(columns, rows),
    )


def _errors(report: Mapping[str, Any]) -> str:
    columns = ("domain", "reconstruction, held out", "all", "quantisation, held out", "all")
    rows = [
        (name, *(_figure(own[error][part]) for error in _ERRORS for part in ("held_out", "all")))
        for name, own in _with_pooled(report)
    ]
    return section(
        "Errors",
        "How much of what tells items apart is lost, as a share of the variance: 0 loses nothing, 1 keeps no more than "
        "the mean item. Reconstruction compares item vectors with what comes back from their codes, quantisation "
        "compares latents with the codes alone. Held-out errors far above those of all items mean that the fit "
        "memorised.",
        image(plots.errors(report), "Errors of each domain"),
        table(columns, rows),
    )


_ERRORS = ("relative_reconstruction_error", "quantisation_error")


def _codes(report: Mapping[str, Any]) -> str:
    levels = [
        (f"level {number}", _count(own["codebook_size"]), *_use(own), f"{own['entropy_bits']:.2f}")
        for number, own in enumerate(report["levels"], start=1)
    ]
    per_domain = [
        (name, *(f"{level['entropy_bits']:.2f}" for level in own["levels"])) for name, own in _with_pooled(report)
    ]
    codebooks = [
        (own["name"], _count(own["items"]), _count(own["codebook_size"]), *_use(own)) for own in report["codebooks"]
    ]
    heads = [f"level {number}" for number in range(1, len(levels) + 1)]
    return section(
        "Use of codes",
        "A code that no item has is wasted. Perplexity is the number of codes that would be in use if all were used "
        "equally: near the codebook's size is good. Entropy is the same in bits; a level near 0 bits tells nothing.",
        image(plots.codebook_use(report), "Items of each code"),
        image(plots.entropy(report), "Entropy of each level"),
        table(("place in the ID", "codes", "used", "perplexity", "entropy, bits"), levels),
        heading("Entropy in each domain, bits") + table(("domain", *heads), per_domain),
        details(
            "Each codebook, over the items that it coded",
            table(("codebook", "items", "codes", "used", "perplexity"), codebooks),
        ),
    )


def _dependence(report: Mapping[str, Any]) -> str:
    measured = report["dependence"]
    if not measured["domains"]:
        return section("Dependence", "No domain has enough items to measure how far codes depend on item vectors.")
    rows = [
        (name, f"{own['cka']:.3f}", f"{own['hsic']:.5f}", _count(own["fitted_items"]))
        for name, own in measured["domains"].items()
    ]
    over = measured["over_domains"]
    rows += [(name, f"{over['cka'][name]:.3g}", f"{over['hsic'][name]:.3g}", "") for name in ("mean", "variance")]
    return section(
        "Dependence of codes on item vectors",
        f"Whether items that are alike have codes that are alike, on {measured['items_per_domain']} items of each "
        "domain: HSIC with Gaussian kernels, and CKA, its normalised form (0 none, 1 the same geometry). High is "
        "good, and so is a small variance over domains: no domain is served worse than others. Items are held-out "
        "ones; where a domain has too few, the last column says how many fitted ones fill up.",
        image(plots.dependence(report), "CKA of each domain"),
        table(("domain", "CKA", "HSIC", "fitted items among them"), rows),
    )


def _routes(report: Mapping[str, Any]) -> str:
    if not all(own["routes"] for own in report["domains"].values()):
        return ""
    rows = [
        (name, route, _percent(share), _percent(own["routes"]["top_share"][route]))
        for name, own in report["domains"].items()
        for route, share in own["routes"]["mean_share"].items()
    ]
    return section(
        "Load of the router",
        "Which ways through the tokenizer the items of a domain take: the mean share of each route, and of how many "
        f"items it is the largest. {_sampled(report)} A route that no domain takes learned nothing.",
        image(plots.routes(report), "Mean share of each route"),
        table(("domain", "route", "mean share", "largest share"), rows),
    )


def _maps(report: Mapping[str, Any]) -> str:
    adapted = "before" in report["maps"]
    means = (
        "Left as items of no known domain, right of their own: what the domain's part of the tokenizer changes."
        if adapted
        else "One map, as this tokenizer treats all domains alike."
    )
    return section(
        "Map of the latents",
        f"What is quantised, on its two main axes, a colour a domain. {means} {_sampled(report)}",
        image(plots.latent_maps(report), "Latents on two axes"),
    )


def _categories(report: Mapping[str, Any]) -> str:
    measured = {name: own.get("category_agreement") for name, own in report["domains"].items()}
    rows = [
        (
            name, _count(own["items"]), _count(own["categories"]),
            *(f"{own[codes][key]:.3f}" for codes in ("first_code", "first_two_codes") for key in _AGREEMENT),
        )
        for name, own in measured.items()
        if own is not None
    ]  # fmt: skip
    if not rows:
        return ""
    return section(
        "Agreement with categories",
        "Normalised mutual information of an item's first codes and its category: 0 where codes say nothing about "
        "categories, 1 where each tells the other. By chance is what the same codes give in random order.",
        table(("domain", "items", "categories", "first code", "by chance", "first two codes", "by chance"), rows),
    )


_AGREEMENT = ("normalised_mutual_information", "chance")


def _collaborative(report: Mapping[str, Any]) -> str:
    rows = []
    for name, own in report["domains"].items():
        for part, shared in own.get("codes_shared_with_cf_neighbours", {}).items():
            if shared is not None:
                pairs = zip(shared["neighbours"], shared["chance"], strict=True)
                cells = (f"{_percent(near)} ({_percent(chance)})" for near, chance in pairs)
                rows.append((f"{name}, {part.replace('_', ' ')}", *cells))
    if not rows:
        return ""
    heads = ["first code", *(f"first {number}" for number in range(2, len(report["codebook_sizes"]) + 1))]
    return section(
        "Codes shared with collaborative neighbours",
        "How often an item shares its first codes with the items that the same users took; in brackets, with any item. "
        "The more the first exceeds the second, the more the codes follow behaviour.",
        table(("domain, items", *heads), rows),
    )


def _words(report: Mapping[str, Any]) -> str:
    parts = []
    for name, own in report["domains"].items():
        codes = own.get("first_codes", [])
        rows = [
            (str(code["code"]), _count(code["items"]), ", ".join(code["words"]), "; ".join(code["examples"]))
            for code in codes[:_SHOWN_CODES]
        ]
        if rows:
            shown = f"{name}: the {len(rows)} most used of {len(codes)} first codes"
            parts.append(details(shown, table(("code", "items", "words", "for instance"), rows, "left")))
    if not parts:
        return ""
    return section(
        "What first codes mean",
        "Words that stand out in the titles and categories of a code's items against those of the domain. Good codes "
        "have words that belong together. sidera tokenizer explain ITEM --bundle BUNDLE tells the same of one item.",
        *parts,
    )


def _nearest(report: Mapping[str, Any]) -> str:
    parts = []
    for name, own in report["domains"].items():
        for example in own.get("nearest_items", []):
            rows = [(near["item"], _sid(near["sid"]), str(near["shared_codes"])) for near in example["nearest"]]
            if rows:
                head = heading(f"{name}: {example['item']} ({_sid(example['sid'])})")
                parts.append(head + table(("item", "ID", "shared codes"), rows, "left"))
    if not parts:
        return ""
    return section(
        "Nearest items by ID",
        "For a few items drawn at random, those that share the most first codes, the nearest by what the codes stand "
        "for first. They should look alike.",
        *parts,
    )


def _with_pooled(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    domains = list(report["domains"].items())
    return [*domains, ("all domains", report)] if len(domains) > 1 else domains


def _sampled(report: Mapping[str, Any]) -> str:
    return f"At most {max(report['sampled_items'].values()):,} items of a domain, drawn at random."


def _use(own: Mapping[str, Any]) -> tuple[str, str]:
    return _percent(own["codebook_use"]), f"{own['perplexity']:.1f}"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _count(count: int) -> str:
    return f"{count:,}"


def _sid(codes: Sequence[int]) -> str:
    return " ".join(map(str, codes))
