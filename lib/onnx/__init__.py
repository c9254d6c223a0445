"""ONNX files of the networks, for other runtimes and for the web page in docs/browser."""
