"""Packed weights: indices of points, their file format, and decoding on a device."""
