"""The measurements: what can be asked of a checkpoint, one module each."""

from landscape.measurements.base import Measurement
from landscape.measurements.hessian import HessianEigenpairs
from landscape.measurements.loss import Loss

__all__ = ["HessianEigenpairs", "Loss", "Measurement"]
