"""A model, a loss and a data set at one point of parameter space: what everything is measured on."""

from landscape.problem.problem import Problem

__all__ = ["Problem"]
