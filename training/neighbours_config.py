"""The section of a config that says what is mixed with the language model."""

from dataclasses import dataclass

from training.config_checks import STRICT, RangeError, in_unit, not_negative, positive


@dataclass(frozen=True)
class NeighboursConfig:
    """What is mixed with the language model's distributions: items that followed, items alike, popular ones.

    Attributes:
        enabled: whether anything is.
        window: how many events apart two items of a sequence still count, 1/sqrt(distance) each.
        backward: what an item counts for the one behind it, as a share of what it counts for the one before.
        smoothing: a list of followers with a count of c has a mass of c / (c + smoothing), the language model the rest.
        discount: what the count of each follower is less when a list is read, in favour of the language model.
        longest: items of a list of followers at the most.
        half_life_days: in this time a transition loses half of its count, where events have real times; null: none.
        nearest: items of a list of alike ones.
        temperature: of the softmax over their cosines, at least 0.02: below, float32 knows no weights.
        recent: the newest items of a history whose lists are read.
        decay: what an item counts beside the next newer one.
        borrowing: what an item with fewer than 5 train events gets of its nearest ones' mass among followers, beside 1
            for what it has itself; 0: nothing.
        reader_width: of the vectors by which a reader, learned from a domain's events and texts, reads whole histories;
            of the mass of items alike it has the share that ranks validation targets best. 0: no reader.
        reader_passes: over the train targets of a domain, for its reader; three that are no better end them.
        reader_most_items: domains with more items have no reader: it looks at all of them for each history.
        unseen_share: the share of items alike in a domain that training never saw; the language model has the rest. Two
            thirds of it are the followers' where events have brought any.
        router: whether each history has its own shares, where they rank validation targets better; else fixed ones.
    """

    __pydantic_config__ = STRICT

    enabled: bool = True
    window: int = 10
    backward: float = 0.2
    smoothing: float = 20.0
    discount: float = 0.5
    longest: int = 100
    half_life_days: float | None = None
    nearest: int = 60
    temperature: float = 0.1
    recent: int = 5
    decay: float = 0.6
    borrowing: float = 1.0
    reader_width: int = 128
    reader_passes: int = 20
    reader_most_items: int = 100_000
    unseen_share: float = 0.9
    router: bool = True

    def __post_init__(self) -> None:
        positive(self, "window", "longest", "nearest", "temperature", "recent", "reader_passes")
        if self.half_life_days is not None:
            positive(self, "half_life_days")
        if self.temperature < 0.02:
            raise RangeError(f"temperature is {self.temperature}; set 0.02 or a value above it")
        in_unit(self, "backward", "decay")
        not_negative(self, "smoothing", "discount", "borrowing", "reader_width", "reader_most_items")
        if not 0 <= self.unseen_share <= 0.99:
            raise RangeError(f"unseen_share is {self.unseen_share}; set a share from 0 to 0.99: items need some chance")
