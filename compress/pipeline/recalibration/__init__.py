"""New activation ranges for a bundle: read and checked, proven, written beside it."""
