"""What a domain needs to join a bundle, checked before anything is computed: a token, settings and data."""

import json
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sidera.manifest import Manifest
from sidera.model.vocabulary import DOMAIN_ROWS
from training.config import TrainConfig
from training.data import Dataset, DomainData, read_dataset
from training.data_files import domain_folders
from training.errors import ConfigError
from training.model_config import AdapterConfig


def free_token(manifest: Manifest, path: Path, name: str) -> int:
    """The first token row that no domain has.

    Raises:
        ConfigError: the bundle has this domain, or no row left.
    """
    if name in manifest.domains:
        raise ConfigError(
            f"{path}: the bundle has the domain {name!r} already; give another --domain, or train a bundle anew"
        )
    taken = {entry.token for entry in manifest.domains.values()}
    free = [row for row in range(DOMAIN_ROWS) if row not in taken]
    if not free:
        raise ConfigError(
            f"{path}: all {DOMAIN_ROWS} token rows are taken, so {name!r} cannot learn one; register its items with a "
            "service, which recommends them untrained, or train a bundle of fewer domains"
        )
    return free[0]


def config_for_joining(manifest: Manifest, data: Path, out: Path, device: str, threads: int) -> TrainConfig:
    """The bundle's own settings for a run of one more domain.

    Adapters have the default settings where the bundle was trained without any; gamma is a constant, or as it was set.

    Raises:
        ConfigError: this release does not know the settings.
    """
    places = {"data": str(data), "out": str(out), "device": device, "threads": threads}
    try:
        config = TypeAdapter(TrainConfig).validate_json(json.dumps({**manifest.config, **places}))
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"the bundle's config cannot be used by this release ({field}: {error.errors()[0]['msg']}); add the domain "
            "with the release that trained the bundle, or train it anew"
        ) from error
    model = config.language_model
    router = model.router if model.router.kind == "fixed" else replace(model.router, kind="constant")
    return replace(config, language_model=replace(model, domain=model.domain or AdapterConfig(), router=router))


def read_joining(manifest: Manifest, data: Path, name: str, min_interactions: int) -> tuple[Dataset, tuple[str, ...]]:
    """The known domains of a folder in the order of their tokens, then the new one; and the folders left out.

    The vectors of known items are the bundle's, so none of them counts as an item without text.

    Raises:
        DataError: a row is not what it should be, or there is no such folder.
    """
    (own,) = domain_folders(data, [name])
    found = [folder.name for folder in sorted(data.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    known = sorted((other for other in found if other in manifest.domains), key=lambda n: manifest.domains[n].token)
    left_out = tuple(other for other in found if other not in (*known, own.name))
    dataset = read_dataset(data, [*known, name], min_interactions)
    domains: list[DomainData] = [replace(domain, no_text={}) for domain in dataset.domains[:-1]]
    return replace(dataset, domains=(*domains, dataset.domains[-1])), left_out
