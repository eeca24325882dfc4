"""Cutting channels and blocks: which go together, what each is worth, what a budget allows. The stage is stages/prune.py."""
