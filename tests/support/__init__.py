"""Shared modules of the tests: oracles, kinds of models, records, damaged input, processes that are killed."""
