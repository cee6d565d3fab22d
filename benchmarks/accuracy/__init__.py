"""How far numbers are off, and how often what is said of them holds."""
