"""U or V: what shape a valley of the loss has. Arrays in, verdicts out; NumPy and SciPy alone."""

from landscape.valley.profile import ProfileVerdict, classify_profile

__all__ = ["ProfileVerdict", "classify_profile"]
