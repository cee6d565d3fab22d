"""How results and refusals are put into words: numbers, tables, messages, progress."""
