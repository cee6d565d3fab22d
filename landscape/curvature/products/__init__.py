"""Products with a curvature matrix, made from a Problem."""
