"""What is done to samples before an engine, and to what it makes of their parts; numpy alone."""
