# One person at a time; a SimCC head takes one image size, here 192 x 256 (width x height).
onnx_config = dict(
    type='onnx',
    export_params=True,
    keep_initializers_as_inputs=False,
    opset_version=11,
    save_file='end2end.onnx',
    input_names=['input'],
    output_names=['simcc_x', 'simcc_y'],
    input_shape=[192, 256],
    optimize=True)
# With export_postprocess=True the file ends with keypoints and scores instead of the scores of all positions.
codebase_config = dict(type='mmpose', task='PoseDetection', export_postprocess=False)
backend_config = dict(type='onnxruntime')
