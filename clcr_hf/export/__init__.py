"""A trained model as one graph: `inputs` of the graph, the `graph` itself, and ONNX files of it."""

from ..onnx_graph import GraphInput, ONNXModel
from .graph import export_program, fusion_inputs, load_for_export, named_outputs
from .inputs import example_batch, graph_inputs
from .onnx import export_model, export_onnx, largest_difference, quantise

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
