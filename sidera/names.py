"""Names that become file names: a domain's name is also the name of its files in a bundle."""

import re

from sidera.errors import CatalogError

RESERVED = frozenset({"vectors"})
"""``catalog/vectors.safetensors`` of a bundle lies beside ``catalog/<domain>.safetensors``."""

_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_domain_name(name: str) -> str:
    """Return ``name`` if it can name a domain.

    Raises:
        CatalogError: the name holds anything but letters, digits, ``_`` and ``-``, starts with
            ``_`` or ``-``, has more than 64 characters, or is the name of another file of a bundle.
    """
    if _DOMAIN_NAME.fullmatch(name) is None:
        raise CatalogError(
            f"domain name {name[:80]!r} is not allowed; use 1 to 64 letters, digits, '_' or '-', "
            "beginning with a letter or a digit"
        )
    if name in RESERVED:
        raise CatalogError(f"domain name {name!r} is not allowed, a file of the bundle has it; choose another one")
    return name
