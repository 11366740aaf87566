"""From a pruned model to a file for onnxruntime: export, parity, latency, the fastest divisor, a plug-in for mmdeploy.

Open ``load.py`` first: it builds a model from a deploy config and a checkpoint. Then ``onnx_export.py`` writes a file,
which ``onnx_runtime.py`` checks and times, and ``quantization.py`` brings it to INT8. The folder may import models,
config, units, graph and what is below them; only the files ``mmdeploy_*.py`` import mmdeploy.
"""
