"""Q/DQ pairs: where they stand, and the weights and ranges they carry. Host only."""
