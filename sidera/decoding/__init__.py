"""What a beam search is made of: beams, the tokens they feed, which leaves may come back, other ways to choose."""
