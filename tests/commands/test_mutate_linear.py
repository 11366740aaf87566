"""``--mutate-linear`` of the commands that look at units, and what they say where nothing may go."""
import pytest
from paths import TINY

from mmprune.commands import main

CONFIG = '''
default_scope = 'mmengine'
custom_imports = dict(imports=['linear_net'], allow_failed_imports=False)
model = dict(type='LinearNet')
input_shape = (1, 3, 8, 8)
'''
NET = '''
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module(force=True)
class LinearNet(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.a, self.fc = nn.Conv2d(3, 6, 8), nn.Linear(6, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.fc(self.a(inputs).flatten(1))
'''


@pytest.fixture(name='config')
def linear_config(tmp_path, monkeypatch):
    (tmp_path / 'linear_net.py').write_text(NET)
    (tmp_path / 'linear.py').write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    return str(tmp_path / 'linear.py')


def test_units_show_what_stays_even_if_nothing_may_go(config, capsys):
    main(['units', config])
    out = capsys.readouterr().out
    assert '0 units may be pruned' in out
    assert "linear layer 'fc' is coupled to it (mutate_linear=True prunes it)" in out
    assert out.splitlines()[-1].startswith('0 % of the multiply-adds can go; 100 % stay: linear layers (mutate_lin')


def test_units_and_verify_take_the_option(config, capsys):
    main(['units', config, '--mutate-linear'])
    out = capsys.readouterr().out
    assert '1 units may be pruned' in out or '1 unit may be pruned' in out
    main(['verify', config, '--mutate-linear', '--seeds', '1'])
    with pytest.raises(SystemExit):
        main(['verify', config])
    assert 'has no unit that may be pruned' in capsys.readouterr().err


def test_units_end_with_what_can_go(capsys):
    main(['units', str(TINY), '--input-shape', '1', '3', '16', '16'])
    assert '% of the multiply-adds can go;' in capsys.readouterr().out.splitlines()[-1]
