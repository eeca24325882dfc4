"""Calibration: selection of samples, and quantisation ranges from histograms. numpy only."""
