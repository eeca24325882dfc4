"""Device profiles, device facts and Q/DQ recipes. Standard library only."""
