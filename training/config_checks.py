"""What every section of a config is checked by: unknown keys are refused, and values out of their range."""

import math

from pydantic import ConfigDict

from training.errors import ConfigError

STRICT = ConfigDict(extra="forbid", strict=True)


class RangeError(ConfigError, ValueError):
    """A value out of its range. pydantic adds the section to every ``ValueError``."""


def positive(section: object, *names: str) -> None:
    """Refuse values that are not above 0.

    Raises:
        RangeError: one is not.
    """
    for name in names:
        if not 0 < getattr(section, name) < math.inf:
            raise RangeError(f"{name} is {getattr(section, name)}; set a value above 0")


def not_negative(section: object, *names: str) -> None:
    """Refuse values below 0.

    Raises:
        RangeError: one is.
    """
    for name in names:
        if not 0 <= getattr(section, name) < math.inf:
            raise RangeError(f"{name} is {getattr(section, name)}; set 0 or a value above it")


def in_unit(section: object, *names: str) -> None:
    """Refuse values that are no share from 0 to 1.

    Raises:
        RangeError: one is not.
    """
    for name in names:
        if not 0 <= getattr(section, name) <= 1:
            raise RangeError(f"{name} is {getattr(section, name)}; set a share from 0 to 1")
