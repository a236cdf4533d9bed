"""Running models: ONNX Runtime sessions and input data."""
