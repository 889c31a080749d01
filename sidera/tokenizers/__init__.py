"""Vector to SID: one file per method, one interface."""

from sidera.tokenizers.base import CodebookGroup, ItemTokenizer
from sidera.tokenizers.store import load_tokenizer, save_tokenizer, tokenizer_digest

__all__ = ["CodebookGroup", "ItemTokenizer", "load_tokenizer", "save_tokenizer", "tokenizer_digest"]
