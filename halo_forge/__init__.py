"""halo-forge: RAFT (reward-ranked fine-tuning) of code models whose answers a compiler checks."""

__version__ = "0.1.0"
