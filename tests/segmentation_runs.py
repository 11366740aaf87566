"""A tiny synthetic segmentation set, and small segmentors of mmseg on it: coloured shapes on a striped ground."""
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ('ground', 'square', 'disc')
SIZE = 64


def write_shapes(root: Path, counts=(('train', 24), ('val', 6))):
    """Write ``images/{split}/*.png`` and ``labels/{split}/*.png``, whose pixels are class numbers; return the root."""
    generator = np.random.RandomState(0)
    for split, count in counts:
        for kind in ('images', 'labels'):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            image, label = draw(generator)
            Image.fromarray(image).save(root / 'images' / split / f'{number:03d}.png')
            Image.fromarray(label).save(root / 'labels' / split / f'{number:03d}.png')
    return root


def draw(generator):
    """Return an image ``[SIZE, SIZE, 3]`` and its classes ``[SIZE, SIZE]``, both uint8."""
    y, x = np.mgrid[:SIZE, :SIZE]
    image = np.stack([60 + 20 * np.sin((x + y) / generator.uniform(2, 6))] * 3, axis=-1)
    label = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for kind, colour in ((1, (200, 60, 40)), (2, (40, 180, 90))):
        centre, radius = generator.randint(12, SIZE - 12, 2), generator.randint(8, 16)
        away = np.abs(np.stack([y, x]) - centre[:, None, None])
        inside = (away.max(0) if kind == 1 else np.hypot(*away)) < radius
        image[inside], label[inside] = colour, kind
    noise = generator.normal(0, 10, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), label


#: Name -> config of mmseg, and what makes it small.
NETWORKS = {
    'deeplabv3plus': ('deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024', '''
model.update(
    pretrained=None, backbone=dict(base_channels=8, stem_channels=16),
    decode_head=dict(in_channels=64, channels=32, c1_in_channels=8, c1_channels=6, num_classes=3, dropout_ratio=0.0),
    auxiliary_head=dict(in_channels=32, channels=8, num_classes=3))
'''),
    'segformer': ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', '''
model.update(
    backbone=dict(init_cfg=None, embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 2, 4]),
    decode_head=dict(in_channels=[8, 8, 16, 32], channels=16, num_classes=3))
'''),
    'pidnet': ('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes', '''
ohem = dict(type='OhemCrossEntropy', thres=0.9, min_kept=2000, loss_weight=1.0)
model.update(
    backbone=dict(init_cfg=None, channels=8, ppm_channels=16),
    decode_head=dict(in_channels=32, channels=16, num_classes=3, loss_decode=[
        dict(type='CrossEntropyLoss', loss_weight=0.4), ohem, dict(type='BoundaryLoss', loss_weight=2.0), ohem]))
train_pipeline.insert(3, dict(type='GenerateEdge', edge_width=2))
''')}
#: Of all networks; to be formatted with: base, root, own.
DENSE = '''
_base_ = 'mmseg::{base}.py'
crop_size = ({size}, {size})
data_preprocessor = dict(size=crop_size)
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='RandomFlip', prob=0.5),
                  dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=crop_size), dict(type='LoadAnnotations'),
                 dict(type='PackSegInputs')]
model = dict(data_preprocessor=data_preprocessor)
{own}
shapes = dict(
    _delete_=True, type='BaseSegDataset', data_root={root!r}, img_suffix='.png',
    metainfo=dict(classes={classes}, palette=[[0, 0, 0], [200, 60, 40], [40, 180, 90]]))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(
    shapes, data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    shapes, data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-3, weight_decay=0.01))
param_scheduler = []
train_cfg = dict(max_iters=150, val_interval=150)
default_hooks = dict(checkpoint=dict(interval=1000), logger=dict(interval=10))
randomness = dict(seed=0)
'''


def dense_config(name, root):
    """Return the config of a small network on the shapes in a folder."""
    base, own = NETWORKS[name]
    return DENSE.format(base=base, own=own, root=str(root), size=SIZE, classes=CLASSES)
