"""Benchmarks of `landscape.watch`: its share of the time, its events, and what it shows of the toy."""
