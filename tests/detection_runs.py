"""The detection and pose prune configs as short runs: small inputs, a few real images, the hooks of the config."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from paths import CONFIGS

from mmprune.config import plain
from mmprune.engine.hook import ResourceInfoHook
from mmprune.registry import HOOKS

#: Channels that a run prunes, one an iteration; it ends inside its second epoch.
CHANNELS = 10
ITERATIONS_AN_EPOCH = 6
#: Sizes in the configs -> sizes here; SSD300 takes images of 300 pixels only, RTMPose's head those of 256x192.
SMALLER = {(1333, 800): (64, 64), (640, 640): (64, 64), (1280, 1280): (128, 128), (-320, -320): (-32, -32),
           (480, 800): (64, 96), (1, 3, 1333, 800): (1, 3, 64, 64), (1, 3, 640, 640): (1, 3, 64, 64),
           **{(side, 1333): (64, 96) for side in (400, *range(480, 801, 32))}, (500, 1333): (64, 96),
           (600, 1333): (64, 96), (384, 600): (48, 64)}
SMALLER_POSE = {(192, 256): (64, 64), (48, 64): (16, 16), (1, 3, 256, 192): (1, 3, 64, 64)}


def pruned_channels(mutator):
    """Count the sets of tied channels that are gone."""
    return sum((unit.width - unit.current_width) // unit.multiplicity for unit in mutator.units)


@HOOKS.register_module(force=True)
class ChannelTargetHook(ResourceInfoHook):
    """The hook of the prune configs, its target a number of channels: so many go in every model."""

    def tell_outlook(self, runner):
        """Channels can always go."""

    def ratio(self):
        return 1 - pruned_channels(self.algorithm.mutator) / (2 * CHANNELS)


class RunProbe(Hook):
    """Remembers losses, what was pruned in which epoch, and the tensors that validation ran on."""

    priority = 'LOWEST'

    def __init__(self):
        self.losses, self.scored, self.pruned, self.pipelines = [], [], [], []
        self.validated, self.metrics = None, {}

    def before_train(self, runner):
        """Note before each prune event which share of the channels has a score above 0."""
        prune = runner.model.prune

        def noting(optimizers):
            self.scored.append(float((runner.model.mutator.fisher > 0).float().mean()))
            return prune(optimizers)

        runner.model.prune = noting

    def before_train_epoch(self, runner):
        dataset = runner.train_dataloader.dataset
        while not hasattr(dataset, 'pipeline'):
            dataset = dataset.dataset
        skipped = getattr(dataset, '_skip_type_keys', None) or ()
        kinds = [type(transform).__name__ for transform in getattr(dataset.pipeline, 'transforms', dataset.pipeline)]
        self.pipelines.append([kind for kind in kinds if kind not in skipped])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))
        self.pruned.append(pruned_channels(runner.model.mutator))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.validated = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def after_val_epoch(self, runner, metrics=None):
        self.metrics = metrics


def replaced(value, table):
    """Return a config with the tuples and lists of a table replaced, at any depth."""
    if isinstance(value, dict):
        return {key: replaced(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        other = table.get(tuple(value)) if all(isinstance(item, int) for item in value) else None
        return other if other is not None else type(value)(replaced(item, table) for item in value)
    return value


def innermost(dataset):
    """Return the config of the data set inside its wrappers, which repeat and combine no more."""
    while 'dataset' in dataset or 'datasets' in dataset:
        if 'datasets' in dataset:
            dataset['datasets'] = dataset['datasets'][:1]
            dataset = dataset['datasets'][0]
        else:
            dataset['times'] = 1
            if dataset['type'] == 'MultiImageMixDataset':
                del dataset['times']
            dataset = dataset['dataset']
    return dataset


def read_small(name, data_root, validate):
    """Return a prune config as plain dicts, on the shared images, pruning one channel an iteration.

    Args:
        name (str): The config, below ``configs/``.
        data_root (Path): The folder with the shared images.
        validate (bool): Keep the evaluation at the end, over four images.
    """
    cfg = Config.fromfile(CONFIGS / name)
    pose = name.startswith('mmpose/')
    values = replaced(plain(cfg._cfg_dict), {} if 'rtmpose' in name else SMALLER_POSE if pose else SMALLER)
    root, kind = (data_root / 'pose_minicoco', 'person_keypoints') if pose else (data_root / 'tinycoco', 'instances')
    batch = 1 if 'ssd300' in name else 2  # the one without batch norms, and with the largest images
    for stage, count in (('train', batch * ITERATIONS_AN_EPOCH), ('val', 4)):
        loader = values[f'{stage}_dataloader']
        loader.update(batch_size=batch, num_workers=0, persistent_workers=False)
        dataset = innermost(loader['dataset'])
        dataset.update(data_root=str(root), ann_file=f'annotations/{kind}_{stage}2017.json', indices=count,
                       data_prefix=dict(img=f'images/{stage}2017/'))
        dataset.pop('bbox_file', None)  # boxes as annotated
    values['val_evaluator']['ann_file'] = str(root / f'annotations/{kind}_val2017.json')
    values['train_cfg'].update(max_epochs=2, val_interval=2)
    values['train_cfg'].pop('dynamic_intervals', None)
    if not validate:
        values.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
    values.update(test_dataloader=None, test_cfg=None, test_evaluator=None, tta_model=None, tta_pipeline=None)
    values['default_hooks']['checkpoint'] = dict(type='CheckpointHook', interval=100, save_last=False)
    values['model'].update(interval=1, channels_per_event=1)
    values['optim_wrapper']['optimizer']['lr'] *= 0.01  # these weights are random, and the rate has no warm-up
    _shorten_hooks(values['custom_hooks'])
    _without_weights(values['model'])
    return without_albumentations(values)


def _shorten_hooks(hooks):
    """Let the switches of the last epochs fire before the second; end the run by a number of channels."""
    for hook in hooks:
        if hook['type'].endswith('PipelineSwitchHook'):
            hook['switch_epoch'] = 1
        elif hook['type'].endswith('YOLOXModeSwitchHook'):
            hook['num_last_epochs'] = 0
        elif hook['type'] == 'mmprune.ResourceInfoHook':
            hook.update(type='mmprune.ChannelTargetHook', save_ckpt_thr=[0.5])


def _without_weights(model):
    """Start from fresh weights: nothing is downloaded. Keep boxes of low scores; look at few regions."""
    architecture = model['architecture']
    for part in (architecture, architecture['backbone']):
        part.pop('init_cfg', None)
    if architecture['backbone']['type'] == 'ResNet':  # gradients reach all of it at once
        architecture['backbone']['zero_init_residual'] = False
    if 'score_thr' in (architecture.get('test_cfg') or {}):
        architecture['test_cfg'].update(score_thr=0.0, max_per_img=10)
    if 'roi_head' in architecture:
        architecture['test_cfg']['rcnn'].update(score_thr=0.0, max_per_img=10)
        architecture['train_cfg']['rcnn']['sampler']['num'] = 32
        model['mutator']['demo_input']['regions'] = 20


def without_albumentations(value):
    """Return a config without the transforms of albumentations, which is an optional package."""
    if isinstance(value, dict):
        return {key: without_albumentations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_albumentations(item) for item in value
                if not (isinstance(item, dict) and item.get('type') == 'Albumentation')]
    return value


def run_config(name, data_root, work_dir, validate=False):
    """Train with the real Runner to the target; return it, and what was noted on the way."""
    cfg = Config(read_small(name, data_root, validate))
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{name}_{len(DefaultScope._instance_dict)}'  # two runs within one second
    cfg.visualizer.name = cfg.experiment_name
    runner = Runner.from_cfg(cfg)
    probe = RunProbe()
    runner.register_hook(probe)
    runner.train()
    return runner, probe
