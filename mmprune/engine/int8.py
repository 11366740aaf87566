"""INT8 of a deployed file: ranges from training images, sensitive layers in float, what it is worth and takes."""
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from mmengine.config import Config
from torch import Tensor

from ..deploy.deployed import deployed_model, task_of
from ..deploy.int8_times import IMAGES, Int8Times, int8_files, int8_times
from ..deploy.machine import has_integer_dot_products
from ..deploy.onnx_runtime import OnnxModel
from ..deploy.quantization import FORMATS, Quantizer
from ..deploy.runtimes.onnx_runtime import OnnxRuntime
from ..deploy.sensitivity import Search, Sensitivity, least_in_float
from ..report.points import drop
from .calibration_images import CalibrationImages
from .deployed_evaluation import DeployedEvaluation
from .headline import headline

#: Images on which layers are compared with float32.
COMPARED = 4
#: Layers in float that a message names.
NAMED = 6


@dataclass
class Int8Options:
    """What is asked for."""

    images: int = 128  #: from which the ranges come
    max_drop: float = 1.0  #: points of the metric that may be lost
    metric: Optional[str] = None  #: which; see :func:`~mmprune.engine.headline.headline`
    form: Optional[str] = None  #: one of the formats; by default the faster one
    threads: int = 1  #: of onnxruntime
    rounds: int = 30  #: timed runs of each network
    seed: int = 0  #: by which images are drawn


class Int8Deployment:
    """Writes a file in INT8 beside the one in float32, ``NAME_int8.onnx``.

    Args:
        deploy_cfg (Config): By which the file was exported.
        cfg (Config): Of the model, dense or pruned.
        path (str): The file.
        options (Int8Options): What is asked for.

    Raises:
        UserError: The config has no training data, or the file nothing to quantise.
        FileNotFoundError: The data are not there.
    """

    def __init__(self, deploy_cfg: Config, cfg: Config, path: Union[str, 'os.PathLike[str]'],
                 options: Int8Options) -> None:
        self.path, self.options, self.cfg = Path(path), options, cfg
        self.out = self.path.with_name(f'{self.path.stem}_int8.onnx')
        preprocessor = deployed_model(deploy_cfg, cfg, path, options.threads).data_preprocessor
        shape = OnnxModel(path).session.get_inputs()[0].shape
        self.images = CalibrationImages(cfg, preprocessor, shape, task_of(deploy_cfg), options.images, options.seed)
        self.quantizer = Quantizer(path, self.images)
        self.sensitivity = Sensitivity(self.quantizer, self.images.first(COMPARED), options.threads)
        self.decibels = self.sensitivity.choose_percentile()
        self._evaluation = DeployedEvaluation(deploy_cfg, cfg, options.threads)
        self.record: Dict[str, Any] = dict(images=len(self.images), pipeline=self.images.pipeline,
                                           percentile=self.quantizer.percentile)

    def describe_ranges(self) -> List[str]:
        """Return the lines that say where the ranges come from."""
        ratios = ', '.join(f'{percentile:g} % {value:.1f}' for percentile, value in self.decibels.items())
        bits = 8 if has_integer_dot_products() else 7
        network = self.quantizer.network
        return [f'INT8: ranges from {len(self.images)} training images through {self.images.pipeline}; they hold '
                f'{self.quantizer.percentile:g} % of the values (signal to noise of the outputs in dB: {ratios})',
                f'weights have {bits} bits; {len(network.layers)} layers are quantised, the '
                f'{len(self.quantizer.model.graph.node) - len(network.nodes)} nodes behind the last of them stay in '
                'float']

    def search(self) -> Search:
        """Find the layers that stay in float, by the evaluator of the config; write the file in the format QDQ."""
        floats = self._evaluation(self.path)
        name = headline(floats, self.cfg, self.options.metric)
        found: Dict[Sequence[str], Mapping[str, float]] = {}

        def drop_of(left: Sequence[str]) -> float:
            self.quantizer.write(self.out, left_in_float=left)
            found[tuple(left)] = self._evaluation(self.out)
            return drop(name, floats[name], found[tuple(left)][name])

        done = least_in_float(lambda: [layer for layer, _ in self.sensitivity.ranked()], drop_of, self.options.max_drop)
        self.quantizer.write(self.out, left_in_float=done.left_in_float)
        self.record.update(metric=name, float_metrics=floats, metrics=dict(found[done.left_in_float]), drop=done.drop)
        return done

    def describe_search(self, done: Search) -> List[str]:
        """Return the lines that say what INT8 costs, and which layers stay in float."""
        name, count = self.record['metric'], len(self.quantizer.network.layers)
        lines = [f'{name}: {self.record["float_metrics"][name]:.4f} in float, {self.record["metrics"][name]:.4f} in '
                 f'INT8: {done.drop:.2f} points less, {self.options.max_drop:g} are allowed']
        if done.left_in_float:
            more = len(done.left_in_float) - NAMED
            named = ', '.join(done.left_in_float[:NAMED]) + (f' and {more} more' if more > 0 else '')
            all_of_them = f'{done.tried[0]:.2f} points less with all in INT8'
            lines.append(f'{len(done.left_in_float)} of {count} layers stay in float ({all_of_them}): {named}')
        if done.drop > self.options.max_drop:
            lines.append('that is more than allowed, whatever stays in float: deploy the float file')
        return lines

    def time(self, files: Mapping[str, Union[str, Path]], left: Sequence[str], x: Tensor, folder: Path) -> Int8Times:
        """Time networks in float and in INT8, with the same layers in float; their files go to a folder."""
        places = [self.quantizer.network.layers.index(name) for name in left]
        written = int8_files(files, self.images.first(IMAGES), places, folder)
        return int8_times(written, x, OnnxRuntime(self.options.threads), self.options.rounds)

    def finish(self, times: Int8Times, left: Sequence[str]) -> List[str]:
        """Write the file in the format that is asked for, or is faster and loses no more than allowed.

        Returns:
            list[str]: The lines that say what was written, and how fast it is.
        """
        form = self.options.form or times.fastest()
        lines = []
        if form != FORMATS[0]:
            other = self.path.with_name(f'{self.path.stem}_int8_qdq.onnx')
            os.replace(self.out, other)
            self.quantizer.write(self.out, form, left)
            lines.append(f'{other}: the same in the format QDQ, which other runtimes read, too')
            if 'metric' in self.record:
                metrics, name = self._evaluation(self.out), self.record['metric']
                lost = drop(name, self.record['float_metrics'][name], metrics[name])
                if lost > self.options.max_drop and self.options.form is None:
                    os.replace(other, self.out)
                    form, lines = FORMATS[0], []
                else:
                    self.record.update(metrics=metrics, drop=lost)
        self.record.update(file=str(self.out), format=form, left_in_float=list(left), times=times.as_json(form))
        return [times.table(form), f'{self.out}: INT8 in the format {form}', *lines]
