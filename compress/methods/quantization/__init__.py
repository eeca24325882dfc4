"""Quantisation: post-training, fake quantisers, choice of calibration samples. The stage is stages/quantize.py."""
