"""Which items of a long history are read: a window whose front stays where it is while the history grows.

With exactly the newest items, the front would move with every new item, all positions with it, and nothing of what a
history cache holds could be used. So the front is one of the oldest items that may be read, the one whose number is
scattered lowest: it stays until it is too old or a lower one comes within reach. The choice depends on the items alone,
not on what is cached nor on how much of the history a caller sends.
"""

from collections.abc import Sequence

_REACH = 5
"""One in so many items of the longest window may be left out for a front that stays."""


def window_start(numbers: Sequence[int], max_history: int) -> int:
    """The place of the first item that is read; 0 where the whole history is.

    Args:
        numbers: of the history's items, oldest first.
        max_history: items that may be read; of a longer history at least four fifths of them are.
    """
    oldest = len(numbers) - max_history
    if oldest <= 0:
        return 0
    reach = range(oldest, oldest + max(1, max_history // _REACH))
    return min(reach, key=lambda place: (_scattered(numbers[place]), -place))


def _scattered(number: int) -> int:
    """Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""
    return number * 2654435761 % 2**32
