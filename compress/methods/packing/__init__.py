"""Weights as indices of few points."""
