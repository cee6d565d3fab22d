"""How time and memory grow: with size, with processes, beside other work."""
