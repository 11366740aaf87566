"""Runtimes that a model is timed in: onnxruntime, OpenVINO, PyTorch.

Open ``runtime.py`` first: what a runtime must do. ``dict(type='OnnxRuntime', threads=2)`` names one in a config.
"""
