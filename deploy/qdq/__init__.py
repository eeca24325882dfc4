"""Q/DQ pairs in ONNX graphs: placement, insertion, and corrections of weights and biases. Host only."""
