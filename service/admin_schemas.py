"""What requests and answers of the admin port look like."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActivateRequest(BaseModel):
    """Asks for another bundle."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra={"examples": [{"version": "2026-11-22"}]}
    )

    version: str = Field(
        min_length=1, max_length=128, description="name of a folder of the bundle store, or the bundle_version of one"
    )


class ServingBundle(_Answer):
    """What answers requests."""

    name: str
    bundle_version: str
    catalog_version: int
    since: datetime


class RunningSwap(_Answer):
    """A bundle that is being loaded beside the one that serves."""

    version: str
    reason: Literal["start", "admin", "rollback", "watch", "follow"]
    step: str = Field(examples=["verifying and loading", "restoring", "warming up", "swapping", "draining"])
    since: datetime


class BundleVersion(_Answer):
    """One folder of the bundle store."""

    name: str
    bundle_version: str | None = Field(description="null where the folder is no complete bundle")
    created: datetime | None
    state: Literal["serving", "complete", "failed", "refused"] = Field(
        description="failed: complete, but it could not be loaded; refused: not a complete bundle"
    )
    problem: str | None = Field(description="why it failed or is refused")


class Bundles(_Answer):
    """The bundle store, and what of it serves."""

    serving: ServingBundle | None
    swap: RunningSwap | None = Field(description="null while none runs")
    rollback_to: str | None = Field(description="what POST /admin/bundles/rollback would swap in")
    versions: list[BundleVersion] = Field(description="newest first")


class Fold(_Answer):
    """What became of the changes that were folded into the tries."""

    running_since: datetime | None = Field(description="null while none runs")
    folded_at: datetime | None = Field(description="when the last one was done; null since this bundle serves")
    seconds: float | None = Field(description="what that one took")
    problem: str | None = Field(description="why the last one failed; null if it did not")


class CatalogState(_Answer):
    """The catalog in use, and what changed in it since its tries were made."""

    catalog_version: int
    items: int
    overlay: int = Field(description="items that joined or left since the bundle was written, or since the last fold")
    fold: Fold


class FoldAnswer(_Answer):
    """What became of a wish to fold."""

    state: Literal["folding", "folded"] = Field(description="folded: nothing was changed, so nothing is done")


class SwapAnswer(_Answer):
    """What became of a wish."""

    version: str
    state: Literal["swapping", "serving"] = Field(description="serving: it serves already, so nothing is done")
