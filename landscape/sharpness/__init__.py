"""Sharpness as the loss itself shows it, without a matrix: along an update, and in a neighbourhood."""
