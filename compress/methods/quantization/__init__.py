"""Fewer bits: without training, with fake quantisers, as few values. The stages are quantize and pack."""
