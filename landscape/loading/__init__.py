"""How a checkpoint becomes a problem."""
