"""What users do: stored once it is acknowledged, read as their histories, and learnt from without training."""
