"""Packing: weights as indices of few points."""
