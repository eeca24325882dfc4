"""Which channels of a model go together, found by following every element through one run of it."""
