"""LETTER: an RQ-VAE whose codes also follow collaborative signals (arXiv 2405.07314). Inference only.

All that LETTER adds to an RQ-VAE are losses while fitting; a fitted one encodes from the item vector alone.
"""

from typing import ClassVar

from sidera.tokenizers.rqvae import RqVae


class Letter(RqVae):
    """The same encoder, quantiser and decoder as an RQ-VAE, fitted otherwise."""

    method: ClassVar[str] = "letter"
