"""What a bundle says of items, known or new: their vectors and their SIDs. Needs no language model.

Shapes: N item, D item vector dim, L level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidera.items.item_encoder import ItemEncoder
from sidera.manifest import Manifest
from sidera.tokenizers import ItemTokenizer, tokenizer_digest


@dataclass(frozen=True)
class Description:
    """What does not change while a bundle is served. Digests are hex."""

    bundle_version: str
    backbone: str
    tokenizer_method: str
    tokenizer_digest: str
    encoder_digest: str


class BundleItems:
    """Encodes and places items with what one bundle holds.

    Attributes:
        description: of the bundle.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: ItemTokenizer,
        encoder_digest: str,
        encoder: Callable[[], ItemEncoder],
    ) -> None:
        """``encoder`` gives the bundle's own, of this digest, each time that an item is encoded or placed."""
        self._encoder = encoder
        self.description = Description(
            bundle_version=manifest.bundle_version,
            backbone=str(manifest.parts["language_model"]["backbone"]),
            tokenizer_method=tokenizer.method,
            tokenizer_digest=tokenizer_digest(tokenizer),
            encoder_digest=encoder_digest,
        )

    def vectors(self, items: Sequence[Mapping[str, object]]) -> npt.NDArray[np.float32]:
        """The vectors of items given by their fields: float32[N, D]."""
        vectors_ND: npt.NDArray[np.float32] = self._encoder().vectors(items)
        return vectors_ND

    def place(
        self, vectors_ND: npt.NDArray[np.float32], domain: str, taken_NL: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Free SIDs for new items, int32[N, L], and whether another item had the nearest one, bool[N]."""
        sids_NL, moved_N = self._encoder().place(vectors_ND, domain, taken_NL)
        return sids_NL, moved_N
