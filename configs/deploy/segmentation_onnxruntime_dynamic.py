# Any batch size and any image size, as the model's test pipeline gives it.
_base_ = './segmentation_onnxruntime_static.py'
onnx_config = dict(
    input_shape=None,
    dynamic_axes=dict(
        input={0: 'batch', 2: 'height', 3: 'width'},
        output={0: 'batch', 2: 'height', 3: 'width'}))
