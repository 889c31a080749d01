"""Recommends for all users of a parquet file: ``sidera batch``.

Three steps, each kept in ``<out>.parts`` and gone on from after a kill: the histories are checked and cut into parts of
``USERS_A_PART`` users (``sidera.jobs.histories``); each part is answered into a file of its own; they become ``out``,
which appears whole or not at all. Answers are those of ``Recommender.recommend``, whatever is answered beside them.

``out`` has a row (``sidera.jobs.batch_part``) for each user and domain asked for, in the order of the users (of a file
with a row a user; else in no order that means anything).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidera.bundle import open_bundle
from sidera.digests import sync_file, sync_folder
from sidera.errors import BatchError
from sidera.files import write_atomically
from sidera.jobs.batch_part import ANSWER_SCHEMA, COUNTS_KEY, BatchConfig, Counts, answer_part, counts_of, rows_of
from sidera.jobs.histories import count_rows, part_path, write_parts
from sidera.loading import load_bundle
from sidera.progress import Advance, track

USERS_A_PART = 256
"""What a kill costs at most, and how often progress is told."""

JOB_KEY = b"sidera.job"

Answerer = Callable[[Path, BatchConfig, Path, Path, Sequence[int], Advance], None]
"""``answer(bundle, config, users, answers, parts, advance)``: answers parts of one folder into another."""


def recommend_for_file(
    bundle: Path,
    histories: Path,
    out: Path,
    config: BatchConfig,
    answer_parts: Answerer | None = None,
) -> Counts:
    """Recommend for all users of ``histories`` and write ``out``; go on where an earlier start stopped.

    Args:
        answer_parts: who answers the parts; None: this process, one after the other.

    Raises:
        BundleError: the bundle cannot be read.
        BatchError: the histories cannot be read, a domain is not in the bundle, or ``out`` is there already.
    """
    job = _job(bundle, histories, config)
    if out.exists():
        return _finished(out, job)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = work_folder(out, job)
    users, answers = work / "users", work / "answers"
    parts = _parts(histories, work, users)
    answers.mkdir(exist_ok=True)
    missing = [number for number in range(parts) if not part_path(answers, number).exists()]
    if missing:
        with track("recommend (users)", sum(rows_of(part_path(users, number)) for number in missing)) as advance:
            (answer_parts or answer_here)(bundle, config, users, answers, missing, advance)
    return _join(answers, parts, out, job, work)


def answer_here(
    bundle: Path, config: BatchConfig, users: Path, answers: Path, parts: Sequence[int], advance: Advance
) -> None:
    """Answer parts in this process."""
    recommender = load_bundle(bundle, config.device).recommender
    for number in parts:
        answer_part(recommender, config, part_path(users, number), part_path(answers, number))
        advance(rows_of(part_path(users, number)))


def _job(bundle: Path, histories: Path, config: BatchConfig) -> str:
    """A digest of all that the answers depend on; of the histories their name, size and time.

    Raises:
        BundleError, BatchError: the bundle or the histories cannot be read, or a domain is not in the bundle.
    """
    manifest = open_bundle(bundle).manifest
    for domain in config.domains:
        if domain not in manifest.domains:
            known = ", ".join(sorted(manifest.domains))
            raise BatchError(f"{bundle}: there is no domain {domain[:80]!r}; the bundle's domains are {known}")
    count_rows(histories)
    stat = histories.stat()
    asked = {name: value for name, value in asdict(config).items() if name not in ("batch_size", "device")}
    told = [manifest.bundle_version, str(histories.resolve()), stat.st_size, stat.st_mtime_ns, asked]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _finished(out: Path, job: str) -> Counts:
    """What a file says that an earlier start wrote for the same job.

    Raises:
        BatchError: it is something else.
    """
    try:
        metadata = pq.read_schema(out).metadata or {}
    except (pa.ArrowException, OSError):
        metadata = {}
    if metadata.get(JOB_KEY, b"").decode() != job:
        raise BatchError(f"{out}: the file exists and answers something else; delete it or give another --out")
    return counts_of(metadata)


def work_folder(out: Path, job: str) -> Path:
    """The folder of the steps, emptied if it holds those of another job.

    Raises:
        BatchError: a folder of that name is there which this module did not make.
    """
    work = out.with_name(out.name + ".parts")
    record = work / "job.json"
    if work.exists():
        if not record.exists() and any(work.iterdir()):
            raise BatchError(f"{work}: the folder holds other files, and its name is needed; move it away")
        if record.exists() and json.loads(record.read_text()) != job:
            _remove(work)
    work.mkdir(exist_ok=True)
    write_atomically(record, json.dumps(job).encode())
    return work


def _parts(histories: Path, work: Path, users: Path) -> int:
    """Check the histories and cut them into parts in ``users``, unless that is done; how many parts."""
    if not users.exists():
        partial = work / "users.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        with track("read histories (rows)", count_rows(histories)) as advance:
            write_parts(histories, partial, USERS_A_PART, advance)
        sync_folder(partial)
        partial.rename(users)
    return sum(1 for _ in users.glob("part-*.parquet"))


def _join(answers: Path, parts: int, out: Path, job: str, work: Path) -> Counts:
    """Write all parts into one file, put it in its place, and remove the steps."""
    paths = [part_path(answers, number) for number in range(parts)]
    counts = sum((counts_of(pq.read_schema(path).metadata) for path in paths), Counts())
    schema = ANSWER_SCHEMA.with_metadata({JOB_KEY: job, COUNTS_KEY: json.dumps(asdict(counts))})
    partial = work / "whole.parquet"
    with pq.ParquetWriter(partial, schema) as writer:
        for path in paths:
            writer.write_table(pq.read_table(path).replace_schema_metadata(schema.metadata))
    sync_file(partial)
    partial.replace(out)
    sync_folder(out.parent)
    _remove(work)
    return counts


def _remove(work: Path) -> None:
    """Remove the steps; if that is cut off, what is left lies under another name."""
    dead = work.with_name(work.name + ".removed")
    if dead.exists():
        shutil.rmtree(dead)
    work.rename(dead)
    shutil.rmtree(dead)


def sentences(counts: Counts, out: Path) -> Iterator[str]:
    """What a person should know of a finished file."""
    yield f"{counts.users:,} users are answered in {out}."
    if counts.unknown_entries and counts.first_unknown:
        domain, item = counts.first_unknown
        yield (
            f"{counts.unknown_entries:,} of {counts.entries:,} entries of the histories name items that the bundle "
            f"does not hold and were left out, {item!r} of {domain!r} the first of them."
        )
    if counts.without_history:
        yield f"Of {counts.without_history:,} users nothing is known; they got what the domain alone says."
    if counts.short:
        yield f"{counts.short:,} answers have fewer items than asked for, since no more are allowed."
