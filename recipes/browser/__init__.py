"""Exports the ONNX graphs of docs/browser, which runs lite voices in a web browser."""
