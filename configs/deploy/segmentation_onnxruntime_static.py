# One image at a time, brought to 1024 x 512 (width x height) without keeping its ratio; the file ends with the classes.
onnx_config = dict(
    type='onnx',
    export_params=True,
    keep_initializers_as_inputs=False,
    opset_version=13,  # the first that has what attention takes
    save_file='end2end.onnx',
    input_names=['input'],
    output_names=['output'],
    input_shape=[1024, 512],
    optimize=True)
# With with_argmax=False the file ends with the scores of all classes instead.
codebase_config = dict(type='mmseg', task='Segmentation', model_type='end2end', with_argmax=True)
backend_config = dict(type='onnxruntime')
