"""Parts of an HTML page that needs no other file, no script and no network.

Knows text, rows and pictures; does not know what they mean. Text is escaped here and nowhere else: whoever calls gives
it as it is.
"""

import base64
import html
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem;
       margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child, .left th, .left td { text-align: left; }
summary { cursor: pointer; font-weight: 600; margin: 0.5rem 0; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that the other functions made."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def text(value: str) -> str:
    """Text as it is, whatever characters it holds."""
    return html.escape(value)


def section(title: str, means: str, *parts: str) -> str:
    """A heading, what the section means, and its parts."""
    return f"<h2>{text(title)}</h2>\n{paragraph(means)}\n" + "\n".join(parts)


def heading(title: str) -> str:
    """A heading inside a section."""
    return f"<h3>{text(title)}</h3>"


def paragraph(content: str) -> str:
    """A paragraph of text."""
    return f"<p>{text(content)}</p>"


def details(summary: str, part: str) -> str:
    """A part that can be folded away; open at first."""
    return f"<details open><summary>{text(summary)}</summary>{part}</details>"


def image(png: bytes, means: str) -> str:
    """A picture, in the page itself, and what it shows for those who do not see it."""
    return f'<p><img alt="{text(means)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table; ``kind`` is ``left`` for cells of text. Wide ones scroll by themselves on a narrow screen."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{kind}"><tr>{head}</tr>\n{body}</table></div>'
