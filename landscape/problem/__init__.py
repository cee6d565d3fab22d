"""The problem that every measurement takes: a model, a loss and a data set at one point of parameter space."""

from landscape.problem.problem import Problem

__all__ = ["Problem"]
