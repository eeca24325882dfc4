"""Latency of models and their layers on a device: measured tables and estimates. Host only."""
