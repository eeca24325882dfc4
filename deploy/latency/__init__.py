"""What parts of a model take on a device: measured tables and estimates. Host only."""
