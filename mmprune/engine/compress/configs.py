"""The configs of a road, written out: the dense model's own, flat, and short ones upon it."""
from typing import Any, Mapping

from mmengine.config import Config

from ...arguments import UserError
from ...config import plain, structure_hooks
from ...deploy.shipped import deploy_config_for
from ...files import write_text
from .options import CompressOptions
from .schedule_length import TrainingLength, training_length
from .survey import Survey

#: File names below ``configs`` of the folder.
DENSE, PRUNE, FINETUNE, DEPLOY, ONNXRUNTIME, CURVE = 'dense.py', 'prune.py', 'finetune.py', 'deploy.py', \
    'onnxruntime.py', 'curve.py'
#: Iterations between two prune events of a group Fisher run; how long it should take, and may take, in lengths of the
#: dense training.
INTERVAL, GROUP_FISHER_PART, MOST_LENGTHS = 10, 0.5, 20
#: Shares of the dense time, or of the FLOPs, at which the curve is looked at.
CURVE_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)

HEAD = '# {what}\n# Written by `mmprune compress`; it can be changed and run by hand.\n_base_ = \'./{base}\'\n'
ONE_SHOT = HEAD + '''
from mmprune.config import schedule_settings

model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_,
    dict(type={hook!r}, {arguments}),
    {checkpoint!r}, {shape}{linear})
'''
GROUP_FISHER = HEAD + '''
from mmprune.config import prune_settings

model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {checkpoint!r}, interval={interval}, normalization_type='act', lr_ratio=0.1,
    {target}, input_shape={shape}, runtime={runtime}{linear})
# How many channels go at once.
model['channels_per_event'] = {channels}
param_scheduler = []
{train_cfg}
'''
FINETUNED = HEAD + '''
from mmprune.config import finetune_settings

model, model_wrapper_cfg, optim_wrapper, _ = finetune_settings(_base_, {pruned!r}, {lr!r})
# {part:g} of the training of the dense model: {count} {unit}.
{schedule}
'''
DEPLOYED = HEAD + '''
from mmprune.config import deploy_model

model = deploy_model(_base_, {structure!r}, 1, {shape}{linear})
'''


class RoadConfigs:
    """Writes the configs of a road to its folder.

    A config that is there stays as it is: it may have been changed by hand.

    Args:
        base (Config): Of the dense model.
        options (CompressOptions): What was asked for.
        survey (Survey): Of the dense model and its data.
    """

    def __init__(self, base: Config, options: CompressOptions, survey: Survey) -> None:
        self.base, self.options, self.survey = base, options, survey
        self.folder = options.folder / 'configs'

    def path(self, name: str) -> str:
        """Return the path of a config."""
        return str(self.folder / name)

    def _write(self, text: str, name: str) -> None:
        if not (self.folder / name).exists():
            write_text(text, self.folder / name)

    def write_dense(self) -> None:
        """Write the config of the dense model, flat: without bases, with the options of the command line."""
        values = Config(plain(self.base._cfg_dict))
        for name in ('load_from', 'resume', 'work_dir'):
            values._cfg_dict.pop(name, None)
        self._write(f'# {self.options.config}, flat.\n{values.pretty_text}', DENSE)

    def write_prune(self) -> None:
        """Write the config of the prune run."""
        options, target = self.options, dict(self.options.target)
        if options.method == 'one-shot':
            text = self._one_shot(
                'mmprune.OneShotPruningHook', f'Prunes to {target}, by {options.criterion}, and repairs in rounds; '
                'trains nothing.', dict(target=dict(target, align='auto')), rounds='auto')
        else:
            text = self._group_fisher(target)
        self._write(text, PRUNE)

    def write_curve(self) -> None:
        """Write the config of the run that looks at several shares."""
        self._write(self._one_shot('mmprune.AccuracyCurveHook', 'Accuracy against milliseconds, without training.',
                                   dict(shares=CURVE_SHARES)), CURVE)

    def write_finetune(self, pruned: str) -> None:
        """Write the config of the finetuning of a pruned checkpoint."""
        length = self.finetuning()
        self._write(FINETUNED.format(
            what='Finetunes the pruned network.', base=PRUNE, pruned=pruned, lr=self.lr(), part=self.options.finetune,
            count=length.length, unit=length.unit, schedule=_assigned(
                param_scheduler=length.param_scheduler, train_cfg=dict(length.train_cfg, _delete_=True),
                custom_hooks=[*length.custom_hooks, *structure_hooks()])), FINETUNE)

    def write_deploy(self, structure: str) -> None:
        """Write the config of the pruned network for deployment."""
        self._write(DEPLOYED.format(what='The pruned network, for deployment.', base=DENSE, structure=structure,
                                    shape=tuple(self.options.input_shape), linear=self._linear), DEPLOY)

    def write_onnxruntime(self) -> None:
        """Write how networks are deployed, unless the user has said it."""
        if self.options.deploy_config is not None:
            return
        scope = self.base.get('default_scope')
        text = f'# How networks are deployed.\n_base_ = {str(deploy_config_for(scope))!r}\n'
        if scope == 'mmpose':  # one size, width first
            text += f'onnx_config = dict(input_shape={[*self.options.input_shape[:1:-1]]})\n'
        self._write(text, ONNXRUNTIME)

    @property
    def deploy_config(self) -> str:
        """The deploy config of mmdeploy."""
        return self.options.deploy_config or self.path(ONNXRUNTIME)

    def finetuning(self) -> TrainingLength:
        """Return the schedule of the finetuning."""
        return training_length(self.base, self.options.finetune)

    def lr(self) -> float:
        """Return the learning rate of the finetuning."""
        try:
            return float(self.base.optim_wrapper.optimizer.lr) * self.options.lr_ratio
        except (AttributeError, KeyError):
            raise UserError(f'{self.options.config} has no optim_wrapper.optimizer.lr, which the finetuning starts '
                            'from') from None

    @property
    def _linear(self) -> str:
        """What configs say of linear layers, where these are pruned."""
        return ', mutate_linear=True' if self.options.mutate_linear else ''

    def _one_shot(self, hook: str, what: str, own: Mapping[str, Any], **repair: Any) -> str:
        """Return the config of a run that cuts and repairs."""
        options = self.options
        arguments = dict(criterion=options.criterion, **own, repair=dict(images=options.images, **repair),
                         runtime=options.runtime)
        text = ',\n         '.join(f'{name}={_written(value)}' for name, value in arguments.items())
        return ONE_SHOT.format(what=what, base=DENSE, hook=hook, arguments=text, checkpoint=options.checkpoint,
                               shape=tuple(options.input_shape), linear=self._linear)

    def _group_fisher(self, target: Mapping[str, float]) -> str:
        """Return the config of a run that prunes while it trains."""
        options = self.options
        if len(target) > 1 or not set(target) <= {'latency', 'flops'}:
            raise UserError('--method group-fisher ends at a share of the time or of the FLOPs: give --target '
                            'latency=SHARE or flops=SHARE')
        ((kind, share),) = target.items()
        name, runtime = ('target_latency', options.runtime) if kind == 'latency' else ('target_flop_ratio', None)
        train_cfg = dict(training_length(self.base, MOST_LENGTHS).train_cfg, _delete_=True)
        train_cfg.pop('dynamic_intervals', None)
        return GROUP_FISHER.format(
            what=f'Prunes to {target} while it trains.', base=DENSE, checkpoint=options.checkpoint, interval=INTERVAL,
            target=f'{name}={share}', shape=tuple(options.input_shape), runtime=runtime, linear=self._linear,
            channels=self._channels_per_event(), train_cfg=_assigned(train_cfg=train_cfg))

    def _channels_per_event(self) -> int:
        """Return how many channels go at once: half of all in about :data:`GROUP_FISHER_PART` of a training.

        One at a time is the paper's way, and best; trainings of a few images have no time for it.
        """
        length = training_length(self.base)
        steps = length.length * (1 if length.unit == 'iterations' else self.survey.batches)
        return max(1, round(self.survey.channels / 2 / max(1, steps * GROUP_FISHER_PART / INTERVAL)))


def _written(value: Any) -> str:
    """Return a value as a config says it, ``dict(...)``."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_written(item)}" for key, item in value.items())})'
    return repr(value)


def _assigned(**values: Any) -> str:
    """Return lines that assign values, formatted."""
    return Config(values).pretty_text.rstrip()

