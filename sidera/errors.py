"""The error tree of package ``sidera``.

SideraError
├── BundleError            a bundle that cannot be written, or must not be read
├── CatalogError
│   ├── UnknownDomainError   a domain that this catalog does not hold
│   ├── DuplicateItemError   two items claim one item id or one SID
│   └── DomainFullError      no free SID is left in a domain
├── EmbeddingError         item text or an encoder that gives no vector
├── TokenizerError         vectors that cannot be quantised, or a tokenizer that cannot be loaded
├── BackboneError          a backbone that cannot be loaded or decodes wrongly
├── SearchError            a request that beam search cannot answer
│   └── FilterError          a condition that is none, or on a field that does not have such values
└── BatchError             histories that cannot be read, or answers that cannot be written

Every message is one sentence for the person who must act: what, where, and what to do.
"""


class SideraError(Exception):
    """Root of all errors that ``sidera`` raises on purpose."""


class BundleError(SideraError):
    """A bundle that cannot be written, or must not be read."""


class CatalogError(SideraError):
    """The catalog refuses an item, a SID or a domain."""


class UnknownDomainError(CatalogError):
    """A domain that this catalog does not hold."""


class DuplicateItemError(CatalogError):
    """Two items claim one item id or one SID."""


class DomainFullError(CatalogError):
    """No free SID is left in a domain."""


class EmbeddingError(SideraError):
    """Item text or an encoder that gives no vector."""


class TokenizerError(SideraError):
    """Vectors that cannot be quantised, or a tokenizer that cannot be loaded."""


class BackboneError(SideraError):
    """A backbone that cannot be loaded, or that decodes wrongly."""


class SearchError(SideraError):
    """A request that beam search cannot answer."""


class FilterError(SearchError):
    """A condition that is none, or that no item's field can meet; ``field`` is the field's name."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class BatchError(SideraError):
    """Histories that cannot be read, or answers that cannot be written."""
