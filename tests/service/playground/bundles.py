"""A stand-in for a bundle that has a folder, with evaluation users and a report in it."""

import json
from pathlib import Path

from service.item_model import Description
from sidera.bundle_writing import write_bundle
from sidera.manifest import BundleDetails, DomainEntry
from tests.service.fakes import FakeModel

USERS = [{"domain": "drama", "history": [{"domain": "drama", "item_id": "drama-3"}], "target": "drama-1"}]
DETAILS = BundleDetails("2026-03-01T12:00:00+00:00", {}, {}, {}, (4, 4), {"drama": DomainEntry(token=1)}, {})


def bundle_with_users(path: Path) -> FakeModel:
    """Write the folder, and make a model that serves it."""

    def fill(folder: Path) -> None:
        for name, text in {
            "samples/evaluation_users.json": json.dumps(USERS),
            "report/tokenization.html": "<!doctype html><title>Report</title><p>A report",
        }.items():
            (folder / name).parent.mkdir()
            (folder / name).write_text(text)

    version = write_bundle(path, fill=fill, details=DETAILS).bundle_version
    model = FakeModel()
    model.description = Description(version, "scratch:tiny", "rqvae", "tokenizer-a", "encoder-a")
    return model
