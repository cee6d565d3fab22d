"""The errors of computed numbers, and how often intervals and verdicts are right."""
