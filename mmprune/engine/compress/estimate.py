"""How long the stages of a road will take, roughly: by the time of one forward pass."""
from typing import Dict

from ...pruning.rounds import STEP as ROUND
from .configs import GROUP_FISHER_PART
from .options import CompressOptions
from .schedule_length import training_length
from .survey import Survey

#: A step of training in forward passes of its images.
STEP = 3.0
#: Forward passes of an image by scoring in a round, and by a repair (twice through, and the solutions); batches that
#: are scored.
SCORING, REPAIR, BATCHES = 3.0, 6.0, 8
#: Seconds of what does not depend on the model's size: starting, tracing, exporting, a latency table.
START, TABLE, EXPORT = 15.0, 90.0, 60.0


def estimate(options: CompressOptions, survey: Survey, base: Dict) -> Dict[str, float]:
    """Return stage -> seconds on this machine's CPU.

    Args:
        options (CompressOptions): What was asked for.
        survey (Survey): Of the dense model and its data.
        base (Config): Of the dense model.
    """
    one = survey.forward_s
    test = START + survey.test_images * one
    left = min(options.target.values()) if 'latency_ms' not in options.target else 0.5
    length = training_length(base)
    epoch = survey.train_images * one * STEP
    training = length.length * (epoch if length.unit == 'epochs' else epoch / max(1, survey.batches))
    rounds = max(1.0, (1 - left) / ROUND)
    batch = survey.train_images / max(1, survey.batches)
    pruning = training * GROUP_FISHER_PART if options.method == 'group-fisher' else \
        rounds * one * (BATCHES * batch * SCORING + options.images * REPAIR)
    found = dict(dense=test, prune=pruning + TABLE + 2 * START + test)
    if options.finetune:
        found.update(finetune=START + training * options.finetune * (1 + left) / 2, test=test)
    found['deploy'] = EXPORT
    found['test-deployed'] = test
    if options.int8:
        found['int8'] = EXPORT + 3 * test
    return found


def spoken(seconds: float) -> str:
    """Return a duration as it is said: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'
