"""Timing, its conditions, and comparison of outputs."""
