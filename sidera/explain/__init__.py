"""What codes mean in words, and why an item was recommended."""
