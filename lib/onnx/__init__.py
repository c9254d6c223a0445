"""ONNX files of the networks, for other runtimes and for the page in docs/browser."""
