"""ONNX graphs: queries, runs on the host, counts and conversions. Host only."""
