"""From a pruned model to onnxruntime: export, parity, latency, the fastest divisor, and a plug-in for mmdeploy."""
