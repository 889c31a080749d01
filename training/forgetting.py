"""Reads the list of users to forget: JSON lines ``{"user_id": ..., "deleted_at": ...}``, in any order.

Events of such a user up to that time are dropped before anything is counted; later ones, of somebody who came back,
stay. Positions for times say nothing of when an event was, so they are dropped too.
Shape legend: E events of one domain.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data_files import BadRow, quoted
from training.data_times import LATEST_SECONDS, iso_seconds
from training.errors import DataError

FIRST_REAL_TIME = 10**8
"""A time below this many seconds (before March 1973) is a position in the user's sequence."""


@dataclass(frozen=True)
class Deletions:
    """When each user was deleted, in unix seconds by user id, and the sha256 of the file that says so."""

    deleted_at: Mapping[str, float]
    sha256: str

    def forgets(
        self, users: Sequence[str], user_E: npt.NDArray[np.integer], time_E: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which events bool[E] are to be dropped.

        Args:
            users: the ids that ``user_E`` points into.
            time_E: unix seconds, or positions.
        """
        until_U = np.array([self.deleted_at.get(user, -1.0) for user in users], dtype=np.float64)
        found: npt.NDArray[np.bool_] = time_E <= until_U[user_E]
        return found


def read_deletions(path: Path) -> Deletions:
    """Read the list; of several rows of one user the newest counts. An empty file names nobody.

    Raises:
        DataError: the file cannot be read, or ``<file>:<line>: <reason; what to do>`` about its first bad row.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the list of users to forget cannot be read: {error.strerror or error}; name a file, or leave "
            "forget out"
        ) from error
    deleted_at: dict[str, float] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            user, seconds = _parse(line)
        except ValueError as error:
            raise DataError(str(BadRow(path, number, str(error)))) from error
        deleted_at[user] = max(seconds, deleted_at.get(user, 0.0))
    return Deletions(deleted_at, hashlib.sha256(content).hexdigest())


def _parse(line: bytes) -> tuple[str, float]:
    """The user and the time of one row.

    Raises:
        ValueError: the reason why it is refused.
    """
    try:
        row = json.loads(line)
    except (RecursionError, ValueError) as error:  # what is not UTF-8 is a ValueError too
        raise ValueError(f"the line is not JSON ({error}); give one JSON object a line") from error
    if not isinstance(row, dict):
        raise ValueError('the line is no object; write {"user_id": "...", "deleted_at": ...}')
    for name in ("user_id", "deleted_at"):
        if name not in row:
            raise ValueError(f'there is no "{name}"; write {{"user_id": "...", "deleted_at": ...}}')
    user = row["user_id"]
    if not isinstance(user, str) or not user.strip():
        raise ValueError('"user_id" is no text, or empty; name the user as the interactions do')
    return user, _seconds(row["deleted_at"])


def _seconds(told: object) -> float:
    if isinstance(told, str):
        seconds = iso_seconds(told)
    elif isinstance(told, int | float) and not isinstance(told, bool):
        seconds = float(told)
    else:
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(f'"deleted_at" {quoted(told)} is not a time; give unix seconds or an ISO 8601 time')
    if not FIRST_REAL_TIME <= seconds <= LATEST_SECONDS:
        raise ValueError(f'"deleted_at" {quoted(told)} is no time of this age; give unix seconds or an ISO 8601 time')
    return seconds
