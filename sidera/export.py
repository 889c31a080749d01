"""Hands a bundle's language model to stock libraries: a ``transformers`` folder, and ``peft`` folders over it.

Written are ``universal/``, ``domain-<name>/`` for every domain with an adapter, and ``tokens.json``: which token stands
for what, since the new tokens have no text. Experts with an average gate are merged into the weights, exactly but for
rounding. A learned gate weighs the experts anew for every token, which no stock layer does: refused.
"""

import json
import shutil
from pathlib import Path

from sidera.bundle import open_bundle
from sidera.errors import BundleError
from sidera.loading import bundle_vocabulary, load_bundle_backbone
from sidera.model.experts import merge_experts
from sidera.model.vocabulary import Vocabulary
from sidera.progress_bars import no_progress_bars


def export_bundle(path: Path, out: Path) -> list[str]:
    """Write the language model of a bundle for stock ``transformers`` and ``peft``.

    Returns:
        The names of what lies in ``out``.

    Raises:
        BundleError: a file is missing or differs from its digest, or something is at ``out`` already.
        BackboneError: the experts are weighed by a learned gate.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists; choose another place for the export, or remove it")
    bundle = open_bundle(path)
    backbone = load_bundle_backbone(bundle, "cpu")
    merge_experts(backbone)
    written = out.with_name(f".{out.name}.writing")
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    with no_progress_bars():
        backbone.save_pretrained(written / "universal")
    (written / "universal" / "generation_config.json").unlink(missing_ok=True)
    for name, entry in bundle.manifest.domains.items():
        if entry.adapter is not None:
            shutil.copytree(bundle.folder(entry.adapter), written / f"domain-{name}")
    (written / "tokens.json").write_text(json.dumps(_tokens(bundle_vocabulary(bundle.manifest)), indent=1))
    if out.exists():
        out.rmdir()
    written.rename(out)
    return sorted(entry.name for entry in out.iterdir())


def _tokens(vocabulary: Vocabulary) -> dict[str, object]:
    sizes = vocabulary.codebook_sizes
    return {
        "prompt": "the domain token and the codes of every item of the history, oldest first, then the target's domain",
        "padding": vocabulary.pad,
        "any_domain": vocabulary.any_domain,
        "domains": {name: vocabulary.domain_token(name) for name in vocabulary.domains},
        "levels": [{"first": vocabulary.first_code(level), "codes": size} for level, size in enumerate(sizes)],
    }
