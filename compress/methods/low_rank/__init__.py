"""Low-rank factors, and losses that hold them near the layers that they replace. The stage is stages/low_rank.py."""
