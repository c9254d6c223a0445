"""Modules shared by all other packages.

Read in this order: paths, errors, messages, files, json_reader, machine (the basics); config, devices; audio/, effects/
(signals); voice/ (model files); pitch/, content/ (analysis); models/ (networks); index; onnx/ (export). assets/ and
fetch download files; installations finds the folders of other programs; nvidia/ selects the PyTorch build.
"""
