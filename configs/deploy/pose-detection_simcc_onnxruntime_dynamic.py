# Any number of persons at a time.
_base_ = './pose-detection_simcc_onnxruntime_static.py'
onnx_config = dict(dynamic_axes=dict(input={0: 'batch'}, simcc_x={0: 'batch'}, simcc_y={0: 'batch'}))
