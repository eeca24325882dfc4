"""Low-rank factors, and what holds them near the weights that they stand for. The stage is stages/low_rank.py."""
