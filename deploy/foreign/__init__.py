"""What others made: read in a process of its own, or within bounds that its files set."""
