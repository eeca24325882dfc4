"""What is done to samples before an engine, and to its outputs: raw samples in, answers out. numpy; pictures by Pillow."""
