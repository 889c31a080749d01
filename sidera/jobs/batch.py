"""Recommends for all users of a parquet file: ``sidera batch``.

Three steps, each kept in ``<out>.parts`` and gone on from after a kill: the histories are checked and cut into parts of
``USERS_A_PART`` users (``sidera.jobs.histories``); each part is answered into a file of its own; they become ``out``,
which appears whole or not at all. Answers are those of ``Recommender.recommend``, whatever is answered beside them.

``out`` has a row for each user and domain asked for, in the order of the users (of a file with a row a user; else in
no order that means anything):

* ``user_id``: text;
* ``domain``: text, the domain asked for;
* ``item_ids``: list of text, best first; fewer than k where fewer items are allowed;
* ``scores``: list of float32, the items' log-probabilities.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidera.bundle import open_bundle
from sidera.digests import sync_file, sync_folder
from sidera.errors import BatchError
from sidera.files import write_atomically
from sidera.jobs.histories import count_rows, part_path, read_part, write_parts
from sidera.loading import load_bundle
from sidera.progress import Advance, track
from sidera.recommender import Query, Recommender

USERS_A_PART = 256
"""What a kill costs at most, and how often progress is told."""

ANSWER_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("domain", pa.string()),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)

JOB_KEY = b"sidera.job"
_COUNTS = b"sidera.counts"


@dataclass(frozen=True)
class BatchConfig:
    """What is asked for every user.

    Attributes:
        domains: those recommended from; empty: all of the bundle.
        num_results: items of each answer, k.
        exclude_history: whether the history's items must not come back.
        beam_width: None for the bundle's default.
        batch_size: queries that are decoded together; changes no answer.
        device: where the language model runs.
    """

    domains: tuple[str, ...] = ()
    num_results: int = 10
    exclude_history: bool = True
    beam_width: int | None = None
    batch_size: int = 32
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("num_results", "batch_size", "beam_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BatchError(f"{name} is {value}; give a number of at least 1")


@dataclass(frozen=True)
class Counts:
    """What was answered, and what of the histories was not understood.

    Attributes:
        users, entries: how many there were.
        unknown_entries: entries of histories whose item or domain the bundle does not hold; they were left out.
        first_unknown: the first of them, as domain and item id.
        without_history: users of whose history nothing is known; the domain alone spoke.
        short: answers with fewer items than asked for.
    """

    users: int = 0
    entries: int = 0
    unknown_entries: int = 0
    first_unknown: tuple[str, str] | None = None
    without_history: int = 0
    short: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.users + other.users,
            self.entries + other.entries,
            self.unknown_entries + other.unknown_entries,
            self.first_unknown or other.first_unknown,
            self.without_history + other.without_history,
            self.short + other.short,
        )


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


def rows_of(part: Path) -> int:
    """Users of a part, or answers of an answered one."""
    return int(pq.read_metadata(part).num_rows)


def answer_part(recommender: Recommender, config: BatchConfig, users: Path, answers: Path) -> None:
    """Answer one part; its file appears whole or not at all."""
    people = read_part(users)
    domains = config.domains or recommender.catalog.domains
    queries = [
        Query(
            domain,
            user.before(domain),
            config.num_results,
            exclude_history=config.exclude_history,
            beam_width=config.beam_width,
        )
        for user in people
        for domain in domains
    ]
    items: list[list[str]] = [[]] * len(queries)
    scores: list[list[float]] = [[]] * len(queries)
    short = 0
    by_length = sorted(range(len(queries)), key=lambda row: len(queries[row].history))
    for begin in range(0, len(queries), config.batch_size):
        rows = by_length[begin : begin + config.batch_size]
        for row, answer in zip(rows, recommender.recommend([queries[row] for row in rows]), strict=True):
            items[row] = [item.item_id for item in answer.items]
            scores[row] = [item.score for item in answer.items]
            short += len(answer.items) < config.num_results
    entries = [(domain, item) for user in people for domain, item, _ in user.entries]
    unknown = [(domain, item) for domain, item in entries if recommender.catalog.find(domain, item) is None]
    strangers = set(unknown)
    counts = Counts(
        users=len(people),
        entries=len(entries),
        unknown_entries=len(unknown),
        first_unknown=unknown[0] if unknown else None,
        without_history=sum(strangers.issuperset((domain, item) for domain, item, _ in u.entries) for u in people),
        short=short,
    )
    columns = [[user.user_id for user in people for _ in domains], [query.domain for query in queries], items, scores]
    schema = ANSWER_SCHEMA.with_metadata({_COUNTS: json.dumps(asdict(counts))})
    partial = answers.with_suffix(".partial")
    pq.write_table(pa.table(columns, schema=schema), partial)
    sync_file(partial)
    partial.replace(answers)


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
    return _counts(metadata)


def _counts(metadata: dict[bytes, bytes]) -> Counts:
    told = json.loads(metadata[_COUNTS])
    first = told["first_unknown"]
    return Counts(**(told | {"first_unknown": None if first is None else (first[0], first[1])}))


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
    counts = sum((_counts(pq.read_schema(path).metadata) for path in paths), Counts())
    schema = ANSWER_SCHEMA.with_metadata({JOB_KEY: job, _COUNTS: json.dumps(asdict(counts))})
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
