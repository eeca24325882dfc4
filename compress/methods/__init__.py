"""The algorithms that stages are made of."""
