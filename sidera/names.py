"""Names that become file names: a domain's name is also the name of its files in a bundle."""

import re

from sidera.errors import CatalogError

_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_domain_name(name: str) -> str:
    """Return ``name`` if it can name a domain.

    Raises:
        CatalogError: the name holds anything but letters, digits, ``_`` and ``-``, starts with
            ``_`` or ``-``, or has more than 64 characters.
    """
    if _DOMAIN_NAME.fullmatch(name) is None:
        raise CatalogError(
            f"domain name {name[:80]!r} is not allowed; use 1 to 64 letters, digits, '_' or '-', "
            "beginning with a letter or a digit"
        )
    return name
