"""A trained model as one graph: `inputs` of the graph, the `graph` itself, and ONNX files of it."""

from .graph import export_program, fusion_inputs, load_for_export, named_outputs
from .inputs import GraphInput, example_batch, graph_inputs
from .onnx import ONNXModel, export_model, export_onnx, largest_difference, quantise

__all__ = [
    "GraphInput",
    "ONNXModel",
    "example_batch",
    "export_model",
    "export_onnx",
    "export_program",
    "fusion_inputs",
    "graph_inputs",
    "largest_difference",
    "load_for_export",
    "named_outputs",
    "quantise",
]
