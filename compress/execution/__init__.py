"""Cached steps, processes and progress."""
