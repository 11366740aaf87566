"""Runtimes that do not run anything: a clock says how long they took."""
from contextlib import contextmanager

from mmprune.deploy.runtimes.runtime import Runtime


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeRuntime(Runtime):
    """A source is the milliseconds of its successive timed or untimed runs; the last one stays."""

    name = 'fake'

    def __init__(self, clock, opening=0.0, threads=1, log=None):
        super().__init__(threads)
        self.clock, self.opening, self.log, self.alive = clock, opening, [] if log is None else log, 0

    def version(self):
        return '1.0'

    def device_name(self):
        return 'nowhere'

    def prepare(self, model, x, path):
        return model

    @contextmanager
    def opened(self, source, x):
        assert self.alive == 0, 'another model is open'
        self.alive += 1
        self.clock.now += self.opening
        self.log.append('open')

        def run():
            self.log.append('run')
            self.clock.now += (source.pop(0) if len(source) > 1 else source[0]) / 1e3
            return []

        yield run
        self.log.append('close')
        self.alive -= 1
