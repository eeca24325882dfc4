"""Pruning of channels and blocks: coupled groups, importance, damage, budgets. The stage is stages/prune.py."""
