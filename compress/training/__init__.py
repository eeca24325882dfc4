"""The training loop, its schedule, state and caches."""
