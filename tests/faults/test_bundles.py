"""Damaged bundles and swaps under load: what serves goes on, and every answer is of one generation."""

import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from service.app import _load
from service.model import BundleModel, Model
from service.settings import Settings
from sidera.bundle import open_bundle
from sidera.bundle_writing import write_bundle
from sidera.manifest import BundleDetails
from tests.service.bundles.stores import Loader, Service, store_service, until, write_version
from tests.service.fakes import FakeModel, bundle_items, film

Damage = Callable[[Path, Path], None]


def truncate(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path, other: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file: Path, other: Path) -> None:
    file.unlink()


def exchange(file: Path, other: Path) -> None:
    shutil.copyfile(other, file)


def rewritten(bundle: Path, path: Path, day: int, change: Callable[[str, bytes], bytes]) -> None:
    """A bundle at ``path`` with the files of another one, changed, and a manifest that is right for them."""
    manifest = open_bundle(bundle).manifest

    def fill(folder: Path) -> None:
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(change(name, (bundle / name).read_bytes()))

    fields = {name: getattr(manifest, name) for name in BundleDetails.__dataclass_fields__}
    write_bundle(path, fill=fill, details=replace(BundleDetails(**fields), created=f"2026-02-{day:02}T00:00:00+00:00"))


def files_of(bundle: Path) -> list[str]:
    return [*open_bundle(bundle).manifest.files, "manifest.json"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """A store with a real bundle; beside it one whose every file differs in its last byte."""
    folder = tmp_path_factory.mktemp("faults")
    rewritten(tiny_bundle, folder / "store" / "good", 1, lambda name, content: content)
    rewritten(tiny_bundle, folder / "other", 2, lambda name, content: content[:-1] + bytes([content[-1] ^ 1]))
    return folder / "store"


@pytest.fixture(scope="module")
def service(store: Path) -> Iterator[Service]:
    with store_service(store, _load, device="cpu") as started:
        yield started


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove, exchange])
def test_a_bundle_with_one_damaged_file_is_refused_whichever_it_is_and_the_old_one_serves(
    store: Path, service: Service, damage: Damage
) -> None:
    names = files_of(store / "good")
    accepted = []
    for number, name in enumerate(names):
        version = f"{damage.__name__}-{number}"
        shutil.copytree(store / "good", store / version)
        damage(store / version / name, store.parent / "other" / name)
        response = service.admin.post("/admin/bundles/activate", json={"version": version})
        if response.status_code == 202:
            service.settled()
            if service.states()[version] != "failed":
                accepted.append(name)
        elif response.json()["error"]["code"] != "bundle_refused":
            accepted.append(name)
        shutil.rmtree(store / version)
    assert len(names) > 15
    assert accepted == []
    assert service.serving() == "good"
    assert service.public.post("/recommend", json={"domain": "books"}).status_code == 200


def test_a_file_that_the_manifest_does_not_name_is_refused(store: Path, service: Service) -> None:
    shutil.copytree(store / "good", store / "more")
    (store / "more" / "backbone" / "modeling.py").write_text("print('hello')")
    service.activate("more")
    assert service.states()["more"] == "failed"
    shutil.rmtree(store / "more")


def test_a_bundle_that_appears_file_by_file_is_never_loaded_before_it_is_whole(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "good", tmp_path / "store" / "first")
    rewritten(store / "good", tmp_path / "whole", 3, lambda name, content: content)
    loaded: list[str] = []

    def load(settings: Settings) -> Model:
        assert settings.bundle is not None
        loaded.append(settings.bundle.name)
        model = FakeModel()
        model.description = replace(
            model.description, bundle_version=open_bundle(settings.bundle).manifest.bundle_version
        )
        return model

    with store_service(tmp_path / "store", load, watch_bundles=0.002) as service:
        target = tmp_path / "store" / "second"
        for name in reversed(files_of(store / "good")):  # the manifest first, which is the worst order
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            content = (tmp_path / "whole" / name).read_bytes()
            (target / name).write_bytes(content[: len(content) // 2])
            assert loaded == ["first"]
            service.overview()
            (target / name).write_bytes(content)
        until(lambda: service.serving() == "second")
        assert loaded == ["first", "second"]


def test_a_real_bundle_is_freed_whole_once_another_one_serves(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "good", tmp_path / "store" / "first")
    rewritten(store / "good", tmp_path / "store" / "second", 3, lambda name, content: content)
    models: list[weakref.ref[Any]] = []

    def load(settings: Settings) -> Model:
        model = _load(settings)
        assert isinstance(model, BundleModel)
        models.extend([weakref.ref(model), weakref.ref(model._recommender.model.backbone)])
        return model

    with store_service(tmp_path / "store", load, device="cpu") as service:
        assert service.serving() == "second"
        service.public.post("/recommend", json={"domain": "books", "history": [{"item_id": "books-1"}]})
        service.activate("first")
        assert [model() is None for model in models] == [True, True, False, False]
        answer = service.public.post("/recommend", json={"domain": "books"}).json()
        assert answer["bundle_version"] == service.overview()["serving"]["bundle_version"]


def test_under_load_no_request_fails_while_bundles_are_swapped_and_each_answer_is_of_one_generation(
    tmp_path: Path,
) -> None:
    """Each version has an item of its own, and a tokenizer of its own; clients register items meanwhile."""
    store = tmp_path / "store"
    marks = {write_version(store, name, day): f"drama-{day}0" for day, name in enumerate(("a", "b", "c"), start=1)}

    def marked(day: int) -> FakeModel:
        return FakeModel([*bundle_items(), film(day * 10, sid=(3, day))], tokenizer=f"tokenizer-{day}")

    make = {name: partial(marked, day) for day, name in enumerate(("a", "b", "c"), start=1)}
    done = threading.Event()
    wrong: list[object] = []
    answered: list[str] = []
    registered: list[str] = []

    with store_service(store, Loader(make=make)) as service:

        def ask() -> None:
            while not done.is_set():
                response = service.public.post("/recommend", json={"domain": "drama", "num_results": 16})
                if response.status_code != 200:
                    wrong.append(response.text)
                    continue
                answer = response.json()
                own = [item["item_id"] for item in answer["items"] if item["item_id"] in marks.values()]
                if own != [marks[answer["bundle_version"]]]:
                    wrong.append(answer)
                answered.append(answer["bundle_version"])

        def register() -> None:
            for number in range(5):
                item = {"item_id": f"new-{number}", "title": f"Title {number}"}
                body = {"domain": "drama", "items": [item], "register": True}
                response = service.public.post("/tokenize", json=body)
                seen = service.public.post("/recommend", json={"domain": "drama", "num_results": 16}).json()
                if response.status_code != 200 or item["item_id"] not in [one["item_id"] for one in seen["items"]]:
                    wrong.append((response.text, seen))
                registered.append(item["item_id"])

        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(ask) for _ in range(3)]
            changing = clients.submit(register)
            for _, name in zip(range(12), cycle(("a", "b", "c")), strict=False):
                service.activate(name)
            changing.result(60)
            done.set()
            for client in asking:
                client.result(60)
    assert wrong == []
    assert len(set(answered)) == 3
    assert len(registered) == 5
