"""Limits on sizes, in a module of its own: reading a limit loads no solver."""

MAX_DIM = 10_000  # most parameters for all eigenvalues of a matrix; its float64 entries take 0.8 GB
