"""What is known before a model is loaded: device profiles and Q/DQ recipes. Standard library only."""
