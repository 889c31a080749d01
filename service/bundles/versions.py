"""The versions of one service: which of them may serve first, which is newer, which failed, and which served before."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from service.bundles.choice import Choice, read_choice, write_choice
from service.bundles.folder import BundleFolder, StoredBundle, read_version
from service.catalog.rows import CatalogStore
from service.errors import BundleRefusedError, ServiceError, StartError, VersionNotFoundError
from service.settings import Settings

_KEPT = 20
"""How many versions that served before are remembered."""


@dataclass(frozen=True)
class Failure:
    """Why a version could not be loaded; ``fingerprint`` is that of its folder then."""

    reason: str
    fingerprint: str
    at: float = field(default_factory=time.time)


class Versions:
    """What the bundle store holds, and what became of it. One thread changes it, any may read."""

    def __init__(self, settings: Settings, log: FilteringBoundLogger, database: Callable[[], CatalogStore]) -> None:
        """``database`` keeps which version serves; it is opened when it is first asked for."""
        self._settings = settings
        self._log = log
        self._database = database
        self._folder = None if settings.bundle_store is None else BundleFolder(settings.bundle_store)
        self._choice: Choice | None = None
        self._is_written = True
        self._told: set[str] = set()
        self.failures: dict[str, Failure] = {}

    @property
    def previous(self) -> str | None:
        """The version that served before."""
        return None if self._choice is None else next(iter(self._choice.previous), None)

    def listed(self) -> tuple[StoredBundle, ...]:
        """Everything that lies in the store."""
        return () if self._folder is None else tuple(self._folder.versions())

    def find(self, version: str) -> StoredBundle:
        """The complete bundle of this folder name or bundle version.

        Raises:
            VersionNotFoundError: the store holds no such version.
            BundleRefusedError: it cannot be loaded, or there is no store.
        """
        if self._folder is None:
            raise BundleRefusedError("this service serves one folder; set SIDERA_BUNDLE_STORE to swap bundles")
        stored = self._folder.find(version)
        if stored is None:
            raise VersionNotFoundError(
                "the bundle store holds no such version; GET /admin/bundles lists them", field="version"
            )
        if stored.problem is not None:
            raise BundleRefusedError(f"version {stored.name!r} cannot be loaded: {stored.problem}", field="version")
        return stored

    def candidates(self) -> Sequence[StoredBundle]:
        """What may serve first: the version chosen last, unless a newer one is watched for; then the newest.

        Raises:
            StartError: there is none.
            StoreError: the database that keeps the choice cannot be opened or read.
        """
        if self._folder is None:
            assert self._settings.bundle is not None  # the settings see to it
            return [replace(read_version(self._settings.bundle), problem=None)]
        complete = [stored for stored in self._folder.versions() if stored.problem is None]
        if not complete:
            raise StartError(
                f"the bundle store {self._folder.path} holds no complete bundle; write one there with "
                "'sidera train', or copy one and rename it in once it is whole"
            )
        choice = self._choice = read_choice(self._database())
        if choice is None:
            return complete
        fresh = [stored for stored in complete if self._is_fresh(stored, choice)]
        chosen = [stored for stored in complete if stored.name == choice.name]
        if not chosen:
            self._log.warning("the version that served last is not in the bundle store any more", version=choice.name)
        return list(dict.fromkeys([*fresh, *chosen, *complete]))

    def newer(self, serving: str | None) -> StoredBundle | None:
        """The newest complete bundle, if it is newer than all that were there before and has not failed as it is.

        Args:
            serving: the bundle version that serves.
        """
        if self._folder is None or self._choice is None or not self._settings.watch_bundles:
            return None
        try:
            listed = self._folder.versions()
        except StartError as error:
            self._log.error("the bundle store cannot be watched", reason=str(error))
            return None
        self._tell_unreadable(listed)
        for stored in listed:
            if stored.created is None or _made(stored) <= self._choice.horizon or stored.bundle_version == serving:
                return None
            failure = self.failures.get(stored.name)
            if failure is None or failure.fingerprint != stored.fingerprint:
                return stored
        return None

    def _tell_unreadable(self, listed: Sequence[StoredBundle]) -> None:
        """Say once of each folder that the file system cannot read it."""
        unreadable = {stored.name: stored.problem for stored in listed if stored.is_unreadable}
        for name in unreadable.keys() - self._told:
            self._log.warning(
                "a version cannot be looked at; what serves goes on", version=name, reason=unreadable[name]
            )
        self._told = set(unreadable)

    def chosen_elsewhere(self, serving: str | None) -> StoredBundle | None:
        """The version that another replica was told to serve, unless it has failed here as it is.

        Args:
            serving: the bundle version that serves.

        Raises:
            StoreError: the database cannot be read.
        """
        if self._folder is None or self._choice is None:
            return None
        if not self._is_written:
            write_choice(self._database(), self._choice)
            self._is_written = True
            return None
        choice = read_choice(self._database())
        if choice is None or choice.name == self._choice.name:
            self._choice = choice or self._choice
            return None
        stored = self._folder.find(choice.name)
        if stored is None or stored.problem is not None or stored.name != choice.name:
            return None
        if stored.bundle_version == serving:
            self._choice = choice
            return None
        failure = self.failures.get(stored.name)
        return stored if failure is None or failure.fingerprint != stored.fingerprint else None

    def follows(self, stored: StoredBundle) -> None:
        """What another replica was told to serve serves here too; the choice stays as it was made."""
        self.failures.pop(stored.name, None)
        try:
            self._leave(read_choice(self._database()) or self._choice, stored)
        except ServiceError as error:
            self._log.error("the choice of the other replicas cannot be read", reason=str(error))

    def _is_fresh(self, stored: StoredBundle, choice: Choice) -> bool:
        """Whether watching takes a version in place of the one that was chosen."""
        return self._settings.watch_bundles > 0 and _made(stored) > choice.horizon

    def _leave(self, choice: Choice | None, stored: StoredBundle) -> None:
        """A version serves here that is not the choice to write; one that was made meanwhile is followed next."""
        if choice is not None:
            choice = replace(choice, name=stored.name, previous=_without(choice.previous, stored.name))
        self._choice = choice

    def failed(self, stored: StoredBundle, reason: str) -> None:
        """A version could not be loaded."""
        self.failures[stored.name] = Failure(reason, stored.fingerprint)

    def serves(self, stored: StoredBundle, *, asked: bool, rollback: bool) -> None:
        """Keep what serves, so that it serves after a restart too.

        Args:
            asked: whether an operator asked for it; else a choice that was made elsewhere while it was loaded stays.
            rollback: whether that was to go back.
        """
        self.failures.pop(stored.name, None)
        if self._folder is None:
            return
        before = self._choice
        if before is not None and before.name != stored.name and not asked and not self._is_fresh(stored, before):
            self._leave(before, stored)  # what was chosen is missing or damaged here alone: the others keep it
            return
        previous = () if before is None else before.previous
        if rollback:
            previous = previous[1:]
        elif before is not None and before.name != stored.name:
            previous = (before.name, *_without(previous, stored.name))[:_KEPT]
        try:
            now = None if asked else read_choice(self._database())
            if now is not None and now != before and now.name != stored.name:
                self._leave(now, stored)
                return
            made = [_made(one) for one in self._folder.versions() if one.created and one.name not in self.failures]
            self._choice = Choice(stored.name, tuple(previous), max([_made(stored), *made]))
            self._is_written = False
            write_choice(self._database(), self._choice)
            self._is_written = True
        except ServiceError as error:
            self._log.error("after a restart another bundle may serve", version=stored.name, reason=str(error))


def _without(names: Sequence[str], one: str) -> tuple[str, ...]:
    return tuple(name for name in names if name != one)


def _made(stored: StoredBundle) -> float:
    """When a complete bundle was made, in seconds since 1970."""
    assert stored.created is not None
    return stored.created.timestamp()
