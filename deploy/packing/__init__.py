"""Packed weights: indices, their file, and decoding on a device."""
