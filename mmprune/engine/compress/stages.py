"""The stages of a road: the commands of each, and what is read of what they have left behind."""
import importlib.util
import os
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ...arguments import UserError
from ...files import read_json
from ...units.complexity import amount
from ..runner import FIX_SUBNET_JSON
from ..schedules.schedule import PRUNED
from .configs import DENSE, DEPLOY, FINETUNE, PRUNE, RoadConfigs
from .options import CompressOptions

Command = List[str]
ONNX = 'end2end.onnx'
#: Values of a record that are paths.
PATHS = ('file', 'dense_file', 'pruned_file', 'config')
#: What the stages write besides checkpoints, in their folders.
METRICS, COST, DENSE_COST, DEPLOYED, QUANTIZED = 'metrics.json', 'cost.json', 'dense_cost.json', 'deploy.json', \
    'int8.json'
#: The file in which mmengine writes the path of a run's last checkpoint.
LAST = 'last_checkpoint'


class Stage(NamedTuple):
    """One stage.

    Attributes:
        name (str): As in :data:`~mmprune.report.stage_record.STAGES`.
        what (str): What it does, in a few words.
        prepare (callable): Writes the configs that its commands read.
        commands (callable): Returns the commands, each a list of words without ``mmprune``.
        result (callable): Returns what its record holds.
    """

    name: str
    what: str
    prepare: Callable[[], None]
    commands: Callable[[], List[Command]]
    result: Callable[[], Dict[str, Any]]


class Stages:
    """The stages of a road, in their order.

    Args:
        options (CompressOptions): What was asked for.
        configs (RoadConfigs): Writes the configs.
    """

    def __init__(self, options: CompressOptions, configs: RoadConfigs) -> None:
        self.options, self.configs, self.folder = options, configs, options.folder

    def all(self) -> List[Stage]:
        """Return the stages that are asked for."""
        found = [Stage('dense', 'test the dense network, export it', self._prepare_dense, self._dense,
                       self._dense_result),
                 Stage('prune', f'prune, {self.options.method}', self.configs.write_prune, self._prune,
                       self._prune_result)]
        if self.options.finetune:
            found.append(Stage('finetune', 'finetune', lambda: self.configs.write_finetune(self.pruned), self._finetune,
                               self._finetune_result))
            found.append(Stage('test', 'test the finetuned network', _nothing, self._test, self._test_result))
        found.append(Stage('deploy', 'export, compare, time', lambda: self.configs.write_deploy(self.structure),
                           self._deploy, self._deploy_result))
        found.append(Stage('test-deployed', 'test the deployed file', _nothing, self._test_deployed,
                           self._test_deployed_result))
        if self.options.int8:
            found.append(Stage('int8', 'quantise, test, time', _nothing, self._int8, self._int8_result))
        return found

    def at(self, *names: str) -> str:
        """Return a path in the folder."""
        return str(self.folder.joinpath(*names))

    @property
    def pruned(self) -> str:
        """The checkpoint of the prune run."""
        if self.options.method == 'one-shot':
            return self.at('prune', PRUNED)
        ((name, share),) = self.options.target.items()
        return self.at('prune', f'{name}_{share:.2f}.pth')

    @property
    def final(self) -> Tuple[str, str]:
        """The config and the checkpoint of the network that is deployed."""
        if not self.options.finetune:
            return self.configs.path(PRUNE), self.pruned
        return self.configs.path(FINETUNE), self._last('finetune')

    @property
    def structure(self) -> str:
        """The structure of the network that is deployed."""
        return self.at('finetune' if self.options.finetune else 'prune', FIX_SUBNET_JSON)

    def _last(self, stage: str) -> str:
        """Return the last checkpoint of a run."""
        path = self.folder / stage / LAST
        if not path.exists():
            raise UserError(f'{path} is missing: the run of the stage {stage} has written no checkpoint '
                            '(default_hooks.checkpoint of the config)')
        return os.path.relpath(path.read_text().strip())

    def _test_of(self, config: str, checkpoint: str, stage: str) -> Command:
        return ['test', config, checkpoint, '--work-dir', self.at(stage, 'test'), '--json', self.at(stage, METRICS)]

    def _metrics(self, stage: str) -> Dict[str, float]:
        found: Dict[str, float] = read_json(self.at(stage, METRICS), f'the metrics of the stage {stage}')
        return found

    def _relative(self, path: str) -> str:
        """Return a path as records hold it, relative to the folder."""
        return os.path.relpath(path, self.folder)

    def _prepare_dense(self) -> None:
        self.configs.write_dense()
        self.configs.write_onnxruntime()

    def _dense(self) -> List[Command]:
        """What cannot be deployed is known now, not after the finetuning."""
        return [self._test_of(self.configs.path(DENSE), self.options.checkpoint, 'dense'),
                self._deploying('dense', '--rounds', '1', dense=True)]

    def _dense_result(self) -> Dict[str, Any]:
        return dict(metrics=self._metrics('dense'), images=self.configs.survey.test_images)

    def _prune(self) -> List[Command]:
        config = self.configs.path(PRUNE)
        return [['train', config, '--work-dir', self.at('prune'), '--resume'],
                self._test_of(config, self.pruned, 'prune'),
                ['cost', config, '--json', self.at('prune', DENSE_COST)],
                ['cost', config, self.at('prune', FIX_SUBNET_JSON), '--json', self.at('prune', COST)]]

    def _prune_result(self) -> Dict[str, Any]:
        dense, pruned = (read_json(self.at('prune', name), 'the cost') for name in (DENSE_COST, COST))
        return dict(checkpoint=self._relative(self.pruned), structure=f'prune/{FIX_SUBNET_JSON}',
                    config=self._relative(self.configs.path(PRUNE)), log='prune', metrics=self._metrics('prune'),
                    cost=dict(dense=dense, pruned=pruned),
                    reached={name: amount(pruned, name) / amount(dense, name) for name in ('flops', 'params')})

    def _finetune(self) -> List[Command]:
        return [['train', self.configs.path(FINETUNE), '--work-dir', self.at('finetune'), '--resume']]

    def _finetune_result(self) -> Dict[str, Any]:
        return dict(checkpoint=self._relative(self._last('finetune')), log='finetune',
                    config=self._relative(self.configs.path(FINETUNE)), epochs=self.configs.finetuning().length)

    def _test(self) -> List[Command]:
        return [self._test_of(*self.final, 'test')]

    def _test_result(self) -> Dict[str, Any]:
        return dict(metrics=self._metrics('test'))

    def _deploying(self, folder: str, *more: str, dense: bool = False) -> Command:
        config, checkpoint = (self.configs.path(DENSE), self.options.checkpoint) if dense else (
            self.configs.path(DEPLOY), self.final[1])
        exporter = [] if importlib.util.find_spec('mmdeploy') else ['--exporter', 'dynamo']
        return ['deploy', self.configs.deploy_config, config, checkpoint, self.options.image,
                '--work-dir', self.at(folder), '--threads', str(self.options.threads), *exporter, *more]

    def _deploy(self) -> List[Command]:
        return [self._deploying('deploy', '--json', self.at('deploy', DEPLOYED))]

    def _deploy_result(self) -> Dict[str, Any]:
        return self._found('deploy', DEPLOYED)

    def _test_deployed(self) -> List[Command]:
        return [['test-deployed', self.configs.deploy_config, self.configs.path(DEPLOY), self.at('deploy', ONNX),
                 '--threads', str(self.options.threads), '--json', self.at('test-deployed', METRICS)]]

    def _test_deployed_result(self) -> Dict[str, Any]:
        return dict(metrics=self._metrics('test-deployed'))

    def _int8(self) -> List[Command]:
        return [self._deploying('int8', '--int8', '--max-drop', str(self.options.max_drop))]

    def _int8_result(self) -> Dict[str, Any]:
        return self._found('int8', QUANTIZED)

    def _found(self, stage: str, name: str) -> Dict[str, Any]:
        """Return what a command wrote as json, with paths relative to the folder."""
        found: Dict[str, Any] = read_json(self.at(stage, name), f'what the stage {stage} found')
        return {key: self._relative(value) if key in PATHS else value for key, value in found.items()}


def _nothing() -> None:
    """Write no config."""
