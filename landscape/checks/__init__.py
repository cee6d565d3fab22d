"""Checks of results on this machine: against closed forms, differences and another library."""
