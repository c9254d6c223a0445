"""Shared by infer and train. Read in this order: paths, errors, config, devices; audio/, voice/ (files);
pitch/, content/ (analysis); models/ (networks); index; assets/ (downloads).
"""
