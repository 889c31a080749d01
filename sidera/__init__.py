"""What a trained system is and how it computes: no HTTP, no training loops."""

__version__ = "0.1.0"
