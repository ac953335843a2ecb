"""ONNX files: our own differentiable importer."""

from .importing import open_onnx

__all__ = ["open_onnx"]
