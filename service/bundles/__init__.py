"""Which bundle serves: the store of versions, one loaded generation, the swap from one to the next."""
