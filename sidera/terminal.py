"""What commands print: errors as one sentence, and text of the user's data."""

from rich.console import Console
from rich.text import Text


def print_error(sentence: str) -> None:
    """Print an error in red on standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(f"Error: {sentence}", style="red"))


def printable(text: str) -> str:
    """Text of the user's data without characters that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)
