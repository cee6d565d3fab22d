"""Build a problem from a checkpoint."""
