"""Makes a bundle: data -> vectors -> tokenizer -> SIDs -> language model -> evaluation -> bundle."""
