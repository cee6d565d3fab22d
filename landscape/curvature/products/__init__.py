"""How products with a matrix of curvature are made from a Problem."""
