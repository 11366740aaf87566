"""Cut many models at random and check every promise: masked dense equals cut, costs, rebuilding from fix_subnet.json.

python benchmarks/sweep_models.py                          # all models whose packages are installed, then the table
python benchmarks/sweep_models.py --models 'ResNet*' VAN   # some of them
python benchmarks/sweep_models.py --table docs/models.md   # also write the table there

Results are kept in a json file, one entry a model, so that a sweep can be interrupted, go on, and run in two
environments (mmcls models in the light one, all others in the full one). The networks of tests/op_nets.py, one for each
operation, are swept too.
"""
import argparse
import copy
import datetime
import fnmatch
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from mmprune.command_line import device
from mmprune.config import demo_input_of
from mmprune.files import write_text
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.registry import MODELS
from mmprune.report import proof as check
from mmprune.units.copies import double_copy
from mmprune.units.equivalence import cut_copy, outputs, relative_difference
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError
from mmprune.units.structure import write_structure

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1e-10
#: Of the multiply-adds of a named model, what must be able to go.
SHARE = 0.5


class Entry(NamedTuple):
    """A model of the sweep.

    Attributes:
        source (str): ``mmcls``, ``mmdet``, ``mmpose``, ``mmseg``, ``torchvision`` or ``op``.
        name (str): Config, builder or network.
        size (tuple[int, int]): Height and width of the images.
    """

    source: str
    name: str
    size: Tuple[int, int] = (96, 96)


MMCLS = {
    'ResNet-50': 'resnet/resnet50_8xb32_in1k', 'ResNetV1d-50': 'resnet/resnetv1d50_8xb32_in1k',
    'ResNeXt-50': 'resnext/resnext50-32x4d_8xb32_in1k', 'Wide-ResNet-50': 'wrn/wide-resnet50_8xb32_in1k',
    'SE-ResNet-50': 'seresnet/seresnet50_8xb32_in1k', 'ResNeSt-50': 'resnest/resnest50_32xb64_in1k',
    'Res2Net-50': 'res2net/res2net50-w14-s8_8xb32_in1k', 'RegNetX-1.6GF': 'regnet/regnetx-1.6gf_8xb128_in1k',
    'VGG-16': 'vgg/vgg16_8xb32_in1k', 'VGG-16-BN': 'vgg/vgg16bn_8xb32_in1k',
    'DenseNet-121': 'densenet/densenet121_4xb256_in1k', 'Inception-v3': 'inception_v3/inception-v3_8xb32_in1k',
    'MobileNetV2': 'mobilenet_v2/mobilenet-v2_8xb32_in1k',
    'MobileNetV3-large': 'mobilenet_v3/mobilenet-v3-large_8xb128_in1k',
    'EfficientNet-B0': 'efficientnet/efficientnet-b0_8xb32_in1k',
    'EfficientNetV2-S': 'efficientnet_v2/efficientnetv2-s_8xb32_in1k-384px',
    'ShuffleNetV1': 'shufflenet_v1/shufflenet-v1-1x_16xb64_in1k',
    'ShuffleNetV2': 'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k', 'HRNet-W18': 'hrnet/hrnet-w18_4xb32_in1k',
    'CSPDarkNet-50': 'cspnet/cspdarknet50_8xb32_in1k', 'RepVGG-A0': 'repvgg/repvgg-A0_8xb32_in1k',
    'MobileOne-s0': 'mobileone/mobileone-s0_8xb32_in1k', 'ConvNeXt-tiny': 'convnext/convnext-tiny_32xb128_in1k',
    'ViT-base': 'vision_transformer/vit-base-p16_pt-64xb64_in1k-224',
    'Swin-tiny': 'swin_transformer/swin-tiny_16xb64_in1k', 'DeiT-tiny': 'deit/deit-tiny_pt-4xb256_in1k',
    'MobileViT-small': 'mobilevit/mobilevit-small_8xb128_in1k', 'VAN-tiny': 'van/van-tiny_8xb128_in1k',
    'PoolFormer-s12': 'poolformer/poolformer-s12_32xb128_in1k',
    'EdgeNeXt-xxsmall': 'edgenext/edgenext-xxsmall_8xb256_in1k'}
MMDET = {
    'Faster R-CNN-ResNet-50': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'RetinaNet-ResNet-50': 'retinanet/retinanet_r50_fpn_1x_coco',
    'RetinaNet-Swin-T': 'swin/retinanet_swin-t-p4-w7_fpn_1x_coco',
    'RetinaNet-PVTv2-B0': 'pvt/retinanet_pvtv2-b0_fpn_1x_coco', 'YOLOX-s': 'yolox/yolox_s_8xb8-300e_coco',
    'RTMDet-tiny': 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 'ATSS-DyHead': 'dyhead/atss_r50_fpn_dyhead_1x_coco',
    'DETR': 'detr/detr_r50_8xb2-150e_coco', 'Conditional DETR': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
    'DAB-DETR': 'dab_detr/dab-detr_r50_8xb2-50e_coco',
    'Deformable DETR': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
    'Deformable DETR, two stages': 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco',
    'DINO': 'dino/dino-4scale_r50_8xb2-12e_coco', 'Mask2Former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco'}
HEATMAPS = 'body_2d_keypoint/topdown_heatmap/coco/td-hm_'
MMPOSE = {
    'RTMPose-s': 'body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192',
    'Simple baseline-ResNet-50': f'{HEATMAPS}res50_8xb64-210e_coco-256x192',
    'HRNet-W32': f'{HEATMAPS}hrnet-w32_8xb64-210e_coco-256x192',
    'HRFormer-small': f'{HEATMAPS}hrformer-small_8xb32-210e_coco-256x192',
    'Pose-Swin-T': f'{HEATMAPS}swin-t-p4-w7_8xb32-210e_coco-256x192',
    'Pose-PVT-S': f'{HEATMAPS}pvt-s_8xb64-210e_coco-256x192',
    'ViTPose-small': f'{HEATMAPS}ViTPose-small_8xb64-210e_coco-256x192'}
MMSEG = {
    'DeepLabV3+-ResNet-18': 'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024',
    'DeepLabV3+-ResNet-50': 'deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024',
    'SegFormer-B0': 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
    'PIDNet-S': 'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
    'UNet': 'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024',
    'PSPNet-ResNet-18': 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'FCN-ResNet-18': 'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024',
    'BiSeNetV1': 'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024',
    'BiSeNetV2': 'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024',
    'STDC1': 'stdc/stdc1_4xb12-80k_cityscapes-512x1024',
    'DDRNet-23-slim': 'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024',
    'Fast-SCNN': 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024',
    'ICNet-ResNet-18': 'icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832',
    'UPerNet-ResNet-18': 'upernet/upernet_r18_4xb2-40k_cityscapes-512x1024',
    'OCRNet-HRNet-W18s': 'ocrnet/ocrnet_hr18s_4xb2-80k_cityscapes-512x1024',
    'FPN-ResNet-50': 'sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024',
    'UPerNet-Swin-T': 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
    'UPerNet-Twins-SVT-S': 'twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512',
    'FPN-Twins-PCPVT-S': 'twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512',
    'Segmenter-ViT-T': 'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512'}
OPENMMLAB = {'mmcls': MMCLS, 'mmdet': MMDET, 'mmpose': MMPOSE, 'mmseg': MMSEG}
TORCHVISION = {
    'AlexNet': 'alexnet', 'VGG-19-BN': 'vgg19_bn', 'GoogLeNet': 'googlenet', 'SqueezeNet 1.1': 'squeezenet1_1',
    'MNASNet': 'mnasnet1_0', 'RegNetY-400MF': 'regnet_y_400mf', 'ShuffleNetV2 x1.0': 'shufflenet_v2_x1_0',
    'DeepLabV3-ResNet-50': 'deeplabv3_resnet50', 'FCN-ResNet-50': 'fcn_resnet50',
    'LR-ASPP': 'lraspp_mobilenet_v3_large'}
SEGMENTATION = ('deeplabv3_resnet50', 'fcn_resnet50', 'lraspp_mobilenet_v3_large')
#: Where images are of another size than 96 x 96: where a model asks for one, or for as many places as it has queries.
SIZES = {**dict.fromkeys(('VGG-16', 'VGG-16-BN', 'ViT-base', 'Swin-tiny', 'DeiT-tiny', 'AlexNet', 'VGG-19-BN'),
                         (224, 224)),
         **dict.fromkeys(MMDET, (128, 160)), **dict.fromkeys(('Deformable DETR, two stages', 'DINO'), (256, 320)),
         **dict.fromkeys(MMPOSE, (256, 192)), 'Segmenter-ViT-T': (512, 512)}


def entries() -> Dict[str, Entry]:
    """Return name -> model, those of installed packages only."""
    found = {}
    for source, names in {**OPENMMLAB, 'torchvision': TORCHVISION}.items():
        if importlib.util.find_spec(source) is not None:
            found.update({name: Entry(source, target, SIZES.get(name, (96, 96))) for name, target in names.items()})
    found.update({f'op: {name}': Entry('op', name) for name in op_nets().NETS})
    return found


def op_nets() -> Any:
    """Return the module with one network for each operation."""
    if str(ROOT / 'tests') not in sys.path:
        sys.path.append(str(ROOT / 'tests'))
    import op_nets as module
    return module


def builder(entry: Entry) -> Tuple[Callable[[], Any], Tuple[int, ...]]:
    """Return what gives the architecture, a config or a module, and its input shape."""
    shape: Tuple[int, ...] = (2, 3, *entry.size)
    if entry.source in OPENMMLAB:
        from mmengine.hub import get_config

        def config() -> dict:
            model = dict(get_config(f'{entry.source}::{entry.name}.py').model, _scope_=entry.source)
            model['backbone'].pop('init_cfg', None)
            return model

        return config, shape
    if entry.source == 'torchvision':
        from torchvision import models
        options: Dict[str, Any] = dict(weights=None)
        if entry.name == 'googlenet':  # its own initialisation takes a minute
            options['init_weights'] = False
        if entry.name in SEGMENTATION:
            options['weights_backbone'] = None
        function = getattr(models.segmentation if entry.name in SEGMENTATION else models, entry.name)
        return lambda: function(**options), shape
    net, shape, _, _ = op_nets().NETS[entry.name]
    return net, shape


def sweep(entry: Entry, seeds: int, device: str = 'cpu') -> Dict[str, Any]:
    """Prove one model on a device; return what was found, as plain values."""
    torch.manual_seed(0)
    architecture, shape = builder(entry)
    built = architecture()
    unit = dict(type='ChannelUnit', mutate_linear=True)
    # a config's model takes images; of the others some take a sequence or a volume
    demo = demo_input_of(built, shape) if isinstance(built, dict) else dict(type='DemoInput', input_shape=shape)
    model: nn.Module = (MODELS.build(built) if isinstance(built, dict) else built).to(device)
    mutator = ChannelMutator(unit, demo)
    start = time.perf_counter()
    try:
        mutator.prepare(model)
    except NoPrunableUnitError:
        return dict(units=0, seconds=time.perf_counter() - start, reasons=reasons(mutator), shape=list(shape))
    seconds = time.perf_counter() - start
    proof = check.prove(mutator, ratio=0.5, seeds=seeds)
    return dict(units=proof.units, seconds=seconds, difference=max(proof.differences), same_shapes=proof.same_shapes,
                backward=proof.backward, macs=list(proof.macs), share=proof.share, unaccounted=proof.unaccounted,
                rebuilt=rebuild(mutator, architecture, demo), reasons=reasons(mutator), shape=list(shape))


def rebuild(mutator: ChannelMutator, architecture: Callable[[], Any], demo: Dict[str, Any]) -> float:
    """Write fix_subnet.json, build the model from it, load the cut weights; return the difference of the outputs."""
    masks = check.masks_around(mutator, 0.5, seed=0)
    cut, kept = cut_copy(double_copy(mutator.model), mutator.units, masks), {}
    for unit in map(copy.copy, mutator.units):
        unit.kept = masks[unit.name]
        kept[unit.name] = unit.kept_channels
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'fix_subnet.json')
        write_structure({name: vector.nonzero()[0].tolist() for name, vector in kept.items()}, path)
        rebuilt = GroupFisherDeploySubModel(architecture(), path, demo_input=demo, mutate_linear=True)
    rebuilt = double_copy(rebuilt).to(next(cut.parameters()).device)
    rebuilt.load_state_dict(cut.state_dict())
    return relative_difference(outputs(cut, mutator.demo_input, False), outputs(rebuilt, mutator.demo_input, False))


def reasons(mutator: ChannelMutator) -> Dict[str, int]:
    """Return reason -> number of groups of channels that stay for it, image and outputs apart."""
    texts = [str(channels.reason).split(' in module')[0].split(" of module '")[0].split(' of the model')[0]
             for channels in mutator.frozen]
    return dict(Counter(text for text in texts if 'input' not in text and 'output' not in text).most_common())


def problems(name: str, result: Dict[str, Any]) -> List[str]:
    """Return what a result lacks."""
    if 'error' in result:
        return [result['error']]
    if not result['units']:
        return []
    found = []
    for key in ('difference', 'rebuilt'):
        if not result[key] < LIMIT:
            found.append(f'{key} {result[key]:.1e}')
    found += [key for key in ('same_shapes', 'backward') if not result[key]]
    if result['macs'][0] != result['macs'][1]:
        found.append(f'macs {result["macs"][0]} by arithmetic, {result["macs"][1]} counted')
    if result['unaccounted']:
        found.append(f'unaccounted: {", ".join(result["unaccounted"])}')
    if not name.startswith('op: ') and result['share'] < SHARE:
        found.append(f'only {result["share"]:.0%} of the MACs can go')
    return found


def table(results: Dict[str, Dict[str, Any]]) -> str:
    """Return a markdown table of the models, one row each."""
    lines = ['| model | from | input | units | masked = cut | rebuilt | MACs that can go | seconds | what else stays |',
             '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |']
    for name, result in results.items():
        if 'error' in result:
            lines.append(f'| {name} | {result["source"]} | | | | | | | {result["error"]} |')
            continue
        why = '; '.join(f'{count} x {text}' for text, count in result['reasons'].items()) or '-'
        size = 'x'.join(map(str, result['shape'][2:]))
        if not result['units']:
            lines.append(f'| {name} | {result["source"]} | {size} | 0 | | | | {result["seconds"]:.1f} | {why} |')
            continue
        lines.append(f'| {name} | {result["source"]} | {size} | {result["units"]} | {result["difference"]:.1e} | '
                     f'{result["rebuilt"]:.1e} | {result["share"]:.0%} | {result["seconds"]:.1f} | {why} |')
    return '\n'.join(lines)


HEADLINE = '''# Models that were cut at random and checked

`python benchmarks/sweep_models.py --table docs/models.md`, {date}, {machine}.

Every model is traced (`mutate_linear=True`, untrained weights, norms with random statistics and affine parameters),
random channels of every unit go (half of them on average, {seeds} choices), and the cut model is compared with the
masked dense one in float64, in eval and in train mode: *masked = cut* is the largest relative difference of any
output (limit 1e-10). *Rebuilt* is that of a model built from `fix_subnet.json` and the cut weights. The shapes of the
outputs are unchanged, a backward pass runs, the multiply-adds of the structure equal those counted while the cut
model ran, and every channel of every conv and linear layer is in a unit or frozen with a reason. *MACs that can go*
is the share that goes if every unit is cut to one channel; *seconds* is trace, units and trial cut, on a shared
machine. Inputs are small; the units do not depend on them. Images and outputs stay in every model.

{failed} [torchvision's classification models](torchvision.md) have a page of their own.

'''


def document(results: Dict[str, Dict[str, Any]], seeds: int) -> str:
    """Return the page with both tables."""
    failed = {name: problems(name, result) for name, result in results.items()}
    failed = {name: texts for name, texts in failed.items() if texts}
    verdict = 'All of them hold.' if not failed else 'These do not hold: ' + '; '.join(
        f'{name} ({", ".join(texts)})' for name, texts in failed.items())
    machine = f'{platform.machine()}, {os.cpu_count()} cores, ' + ', '.join(
        sorted({f'torch {result["torch"]}' for result in results.values()}))
    models = {name: result for name, result in results.items() if result['source'] != 'op'}
    ops = {name[4:]: result for name, result in results.items() if result['source'] == 'op'}
    return (HEADLINE.format(date=datetime.date.today(), machine=machine, seeds=seeds, failed=verdict) + table(models)
            + '\n\n## One small network for each operation\n\n' + table(ops) + '\n')


def read(path: Path) -> Dict[str, Dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', default=['*'], help='names or patterns (default: all)')
    parser.add_argument('--seeds', type=int, default=3, help='random choices of channels (3)')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', type=device, default='cpu', help='where models are run (cpu)')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'sweep_models.json',
                        help='results so far; models in it are left out')
    parser.add_argument('--again', action='store_true', help='sweep models that have a result too')
    parser.add_argument('--table', help='write the page with the tables to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter('ignore')
    order = [*(name for names in OPENMMLAB.values() for name in names), *TORCHVISION,
             *(f'op: {name}' for name in op_nets().NETS)]
    chosen = {name: entry for name, entry in entries().items()
              if any(fnmatch.fnmatch(name, pattern) for pattern in args.models)}
    if not chosen:
        parser.error(f'no model matches {args.models}; there are {", ".join(entries())}')
    failed: Optional[str] = None
    for name, entry in chosen.items():
        if name in read(args.results) and not args.again:
            continue
        try:
            result = sweep(entry, args.seeds, args.device)
        except Exception as error:  # noqa: BLE001  (a sweep goes on)
            result = dict(error=f'{type(error).__name__}: {str(error).splitlines()[0][:200]}')
        results = {**read(args.results), name: dict(result, source=entry.source, torch=torch.__version__)}
        args.results.parent.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps({key: results[key] for key in order if key in results}, indent=1), args.results)
        print(table({name: results[name]}).splitlines()[-1], flush=True)
        for problem in problems(name, results[name]):
            failed = name
            print(f'  FAILS: {name}: {problem}', flush=True)
    if args.table:
        write_text(document(read(args.results), args.seeds), args.table)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
