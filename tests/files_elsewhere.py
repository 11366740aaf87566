"""What an exported model computes in a process that has neither mmprune nor the library that it was made with."""
import subprocess
import sys

RUNS = {'model.onnx': 'import onnxruntime\nfound = onnxruntime.InferenceSession(sys.argv[1]).run(None, '
                      '{"input": image.numpy()})[0]\n',
        'model.pt2': 'found = torch.export.load(sys.argv[1]).module()(image).detach().numpy()\n'}
CODE = '''
import sys
import torch
for name in ('mmprune', {library!r}, 'mmengine'):
    sys.modules[name] = None
image, expected = torch.load(sys.argv[2])
{run}print(abs(found - expected.numpy()).max() / expected.abs().max().item())
'''


def assert_files_compute(folder, library):
    """Compare ``model.onnx`` and ``model.pt2`` with the image and the outputs in ``expected.pth``, all in a folder."""
    for name, run in RUNS.items():
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE.format(library=library, run=run),
                               folder / name, folder / 'expected.pth'], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) < 1e-5
