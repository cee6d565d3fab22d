"""Shared modules of the studies: units of work, training runs, intervals, and the toy's arms."""
