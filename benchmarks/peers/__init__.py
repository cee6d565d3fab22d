"""Comparisons with other libraries: products, eigenpairs, planes and memory."""
