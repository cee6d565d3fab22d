"""Comparisons of another device with the CPU: the agreement of numbers, and the speed."""
