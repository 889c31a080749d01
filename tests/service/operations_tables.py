"""The table of settings in ``docs/operations.md``: ``python -m tests.service.operations_tables`` writes it anew."""

import re
from pathlib import Path

from service.settings import Settings

DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"
_TABLE = re.compile(r"^\| variable \| default \| what it is \|\n(?:\|.*\n)+", re.M)


def settings_table() -> str:
    """One line a setting, in the order of the code."""
    rows = [
        f"| `SIDERA_{name.upper()}` | {_shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *rows]) + "\n"


def with_settings(document: str) -> str:
    """The document with the table as it should be.

    Raises:
        ValueError: the document has no such table, or more than one.
    """
    changed, tables = _TABLE.subn(lambda _: settings_table(), document)
    if tables != 1:
        raise ValueError(f"the document has {tables} tables of settings; one is expected")
    return changed


def section(document: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", document, re.M | re.S)
    if found is None:
        raise ValueError(f"there is no section {title!r}")
    return found[1]


def _shown(default: object) -> str:
    if default is None or default in ("", ()):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    DOCUMENT.write_text(with_settings(DOCUMENT.read_text()))
