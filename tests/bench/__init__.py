"""Longer proofs: ``python -m tests.bench NAME ...`` measures, prints a table and writes it into docs/benchmarks.md."""
