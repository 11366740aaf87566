# Any batch size and, for networks that pool globally, any image size.
_base_ = './classification_onnxruntime_static.py'
onnx_config = dict(
    input_shape=None,
    dynamic_axes=dict(input={0: 'batch', 2: 'height', 3: 'width'}, output={0: 'batch'}))
