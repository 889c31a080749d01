"""Answers one part of a batch job: the users of a parquet file into a parquet file of answers.

A row of answers is of one user and one domain:

* ``user_id``: text;
* ``domain``: text, the domain asked for;
* ``item_ids``: list of text, best first; fewer than k where fewer items are allowed;
* ``scores``: list of float32, the items' log-probabilities.

What was counted on the way stands in the file's metadata.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidera.digests import sync_file
from sidera.errors import BatchError
from sidera.jobs.histories import read_part
from sidera.recommender import Query, Recommender

ANSWER_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("domain", pa.string()),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)

COUNTS_KEY = b"sidera.counts"


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
    schema = ANSWER_SCHEMA.with_metadata({COUNTS_KEY: json.dumps(asdict(counts))})
    partial = answers.with_suffix(".partial")
    pq.write_table(pa.table(columns, schema=schema), partial)
    sync_file(partial)
    partial.replace(answers)


def counts_of(metadata: dict[bytes, bytes]) -> Counts:
    """What the metadata of a file of answers say."""
    told = json.loads(metadata[COUNTS_KEY])
    first = told["first_unknown"]
    return Counts(**(told | {"first_unknown": None if first is None else (first[0], first[1])}))
