"""Measure the networks beside this script on this device; it needs onnxruntime and numpy only.

python measure.py --threads 2

Nothing else should run meanwhile. What is measured is written to measured.json, which goes back to where the networks
came from. The dense network is timed before and after every other, so that a speed that wanders is seen.
"""
import argparse
import json
import os
import platform
import statistics
import tempfile
import time

import numpy

WARM_UP = 2
KERNEL = '_kernel_time'


def session_of(path, threads, profile=None):
    """Return a session of a file."""
    import onnxruntime  # here, since others read profiles by this file and may not have it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])


def median_ms(path, threads, x, seconds, least_runs):
    """Return the median milliseconds of a run; one session is open at a time."""
    session, times = session_of(path, threads), []
    feed = {session.get_inputs()[0].name: x}
    for _ in range(WARM_UP):
        session.run(None, feed)
    while len(times) < least_runs or sum(times) < 1000 * seconds:
        began = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def profiled(path, threads, x, runs):
    """Return name, operator, milliseconds and shapes of every node."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(path, threads, os.path.join(folder, 'profile'))
        feed = {session.get_inputs()[0].name: x}
        for _ in range(WARM_UP + runs):
            session.run(None, feed)
        with open(session.end_profiling(), encoding='utf-8') as file:
            return nodes_of(json.load(file), runs)


def nodes_of(events, runs):
    """Return what each node took in the last runs of a profile: name, operator, milliseconds, shapes and provider.

    Kernels are events of the category Node; their times are in microseconds.
    """
    nodes = {}
    for event in events:
        if event['cat'] == 'Node' and event['name'].endswith(KERNEL):
            key = event['name'][:-len(KERNEL)], event['args'].get('node_index', '')
            nodes.setdefault(key, []).append(event)
    return [dict(name=name, op=each[-1]['args']['op_name'],
                 milliseconds=statistics.median(one['dur'] for one in each[-runs:]) / 1000,
                 inputs=shapes_of(each[-1]['args'].get('input_type_shape')),
                 outputs=shapes_of(each[-1]['args'].get('output_type_shape')),
                 kernel=each[-1]['args'].get('provider', '')) for (name, _), each in nodes.items()]


def shapes_of(entries):
    """Return the shapes in a list like [{'float': [1, 3, 8, 8]}]."""
    return [tuple(shape) for entry in entries or () for shape in entry.values()]


def cpu_name():
    """Return what the CPU calls itself."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.partition(': ')[2].strip() for line in file if line.startswith(('model name', 'Model'))]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main():
    """Measure everything that pack.json names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1, help='threads of a run (1)')
    parser.add_argument('--seconds', type=float, default=0.4, help='seconds of runs of each network (0.4)')
    parser.add_argument('--out', default='measured.json', help='file to write (measured.json)')
    args = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, 'pack.json'), encoding='utf-8') as file:
        pack = json.load(file)
    x = numpy.random.RandomState(0).randn(*pack['input_shape']).astype(numpy.float32)
    paths = [os.path.join(here, network['file']) for network in pack['networks']]
    networks, now = [], median_ms(paths[0], args.threads, x, args.seconds / 2, 2)
    for number, path in enumerate(paths):
        milliseconds = median_ms(path, args.threads, x, args.seconds, 4)
        nodes = profiled(path, args.threads, x, min(100, max(4, int(1000 * args.seconds / milliseconds))))
        before, now = now, median_ms(paths[0], args.threads, x, args.seconds / 2, 2)
        networks.append(dict(milliseconds=milliseconds, dense=(before + now) / 2, nodes=nodes))
        print(f'{number + 1} of {len(paths)}: {milliseconds:.2f} ms, dense {now:.2f} ms', flush=True)
    import onnxruntime

    runtime = dict(runtime='onnxruntime', version=onnxruntime.__version__, threads=args.threads,
                   device='CPUExecutionProvider', cpu=cpu_name())
    with open(args.out, 'w', encoding='utf-8') as file:
        json.dump(dict(format=1, pack=pack, runtime=runtime, networks=networks), file)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
