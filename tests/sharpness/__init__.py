"""Tests of `landscape.sharpness`."""
