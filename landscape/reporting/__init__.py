"""Text of results and refusals: numbers, tables, messages, progress."""
