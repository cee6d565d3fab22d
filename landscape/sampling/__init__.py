"""How far numbers depend on the samples: errors of curvature and of the gradient over a population of samples."""
