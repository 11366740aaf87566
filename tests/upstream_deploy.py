"""The calls of mmdeploy 1.3.1's own tools/deploy.py, which its wheel does not ship; nothing of mmprune is imported.

python tests/upstream_deploy.py DEPLOY_CFG MODEL_CFG CKPT IMAGE WORK_DIR
"""
import logging
import os
import sys
from functools import partial

import torch.multiprocessing as mp
from mmdeploy.apis import torch2onnx, visualize_model
from mmdeploy.apis.core import PIPELINE_MANAGER
from mmdeploy.apis.utils import to_backend
from mmdeploy.backend.sdk.export_info import export2SDK
from mmdeploy.utils import Backend, get_backend, get_ir_config, load_config


def target_wrapper(target, result, *args, **kwargs):
    result.value = -1
    target(*args, **kwargs)
    result.value = 0


def in_new_process(target, args, kwargs):
    result = mp.Value('d', 0, lock=False)
    process = mp.Process(target=partial(target_wrapper, target, result), args=args, kwargs=kwargs)
    process.start()
    process.join()
    if result.value != 0:
        sys.exit(f'{target.__name__} failed')


def main(deploy_cfg_path, model_cfg_path, checkpoint, image, work_dir):
    mp.set_start_method('spawn', force=True)
    PIPELINE_MANAGER.enable_multiprocess(True, [torch2onnx])
    PIPELINE_MANAGER.set_log_level(logging.INFO, [torch2onnx])
    deploy_cfg, model_cfg = load_config(deploy_cfg_path, model_cfg_path)
    os.makedirs(work_dir, exist_ok=True)
    export2SDK(deploy_cfg, model_cfg, work_dir, pth=checkpoint, device='cpu')
    save_file = get_ir_config(deploy_cfg)['save_file']
    torch2onnx(image, work_dir, save_file, deploy_cfg_path, model_cfg_path, checkpoint, device='cpu')
    backend = get_backend(deploy_cfg)
    files = to_backend(backend.value, [os.path.join(work_dir, save_file)], work_dir=work_dir, deploy_cfg=deploy_cfg,
                       device='cpu')
    for kind, model in ((backend, files), (Backend.PYTORCH, [checkpoint])):
        in_new_process(visualize_model, (model_cfg_path, deploy_cfg_path, model, image, 'cpu'),
                       dict(backend=kind, output_file=os.path.join(work_dir, f'output_{kind.value}.jpg'),
                            show_result=False))


if __name__ == '__main__':
    assert 'mmprune' not in sys.modules
    main(*sys.argv[1:])
