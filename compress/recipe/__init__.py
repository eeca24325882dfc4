"""What a run is asked to do, read from TOML."""
