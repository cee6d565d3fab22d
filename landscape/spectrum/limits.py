"""What is too large, in numbers that everybody may read without loading a solver."""

MAX_DIM = 10_000  # parameters of a matrix whose eigenvalues are all computed: its entries take 0.8 GB
