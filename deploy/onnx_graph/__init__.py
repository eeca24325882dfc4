"""ONNX graphs: read, run, counted, converted. Host only."""
