"""Which classes of channels the units of the toy nets have, by hand."""
from hand_units import Unit, blocks, span, strided

HAND = {
    'Residual': {
        'stem_(0, 6)_6': Unit({'stem': span(0, 6), 'conv2': span(0, 6)}, {'conv1': span(0, 6), 'fc': span(0, 6)},
                              act=36 + 36,
                              flops=lambda k: 36 * 9 * 3 + 36 * 9 * 5 + 36 * 9 * 5 + 4),
        'conv1_(0, 5)_5': Unit({'conv1': span(0, 5)}, {'conv2': span(0, 5)},
                               act=36, flops=lambda k: 36 * 9 * 6 + 36 * 9 * 6)},
    'Concat': {
        'a_(0, 4)_4': Unit({'a': span(0, 4)}, {'c': span(0, 4), 'e': span(6, 4)},
                           act=36, flops=lambda k: 36 * 9 * 3 + 36 * 9 * 6 + 36 * 4),
        'b_(0, 5)_5': Unit({'b': span(0, 5)}, {'c': span(4, 5), 'd': span(0, 5)},
                           act=36, flops=lambda k: 36 * 3 + 36 * 9 * 6 + 36 * 6),
        'c_(0, 6)_6': Unit({'c': span(0, 6), 'd': span(0, 6)}, {'e': span(0, 6)},
                           act=72, flops=lambda k: 36 * 9 * 9 + 36 * 5 + 36 * 4)},
    'Depthwise': {
        'stem_(0, 4)_4': Unit({'stem': span(0, 4), 'dw1': span(0, 4), 'dw2': blocks(4, 2)},
                              {'dw1': span(0, 4), 'dw2': span(0, 4), 'pw': blocks(4, 2)},
                              act=36 + 36 + 2 * 9,
                              flops=lambda k: 36 * 3 + 36 * 9 + 2 * 9 * 9 + 2 * 9 * 5),
        'pw_(0, 5)_5': Unit({'pw': span(0, 5)}, {'fc': span(0, 5)}, act=9, flops=lambda k: 9 * 8 + 3)},
    'Grouped': {
        'stem_(0, 6)_6': Unit({'stem': strided(3, 2)}, {'g': strided(3, 2)},
                              act=2 * 36, flops=lambda k: 2 * 36 * 27 + 36 * 9 * 4),
        'g_(0, 4)_4': Unit({'g': strided(2, 2)}, {'head': strided(2, 2)},
                           act=2 * 36, flops=lambda k: 2 * 36 * 9 * 3 + 2 * 36 * 3)},
    'Shared': {
        'stem_(0, 5)_5': Unit({'stem': span(0, 5), 'conv': span(0, 5)}, {'conv': span(0, 5), 'fc': span(0, 5)},
                              act=36 + (36 + 36 + 9),
                              flops=lambda k: 36 * 3 + (36 + 36 + 9) * 9 * 5 + (36 + 36 + 9) * 9 * 5 + 3)},
    'SharedHead': {
        'low_(0, 4)_4': Unit({'low': span(0, 4), 'high': span(0, 4)}, {'tower': span(0, 4)},
                             act=36 + 9, flops=lambda k: (36 + 9) * 27 + (36 + 9) * 9 * 6),
        'tower_(0, 6)_6': Unit({'tower': span(0, 6)}, {'cls': span(0, 6)},
                               act=36 + 9, flops=lambda k: (36 + 9) * 9 * 4 + (36 + 9) * 2)},
    'Flatten': {
        'conv_(0, 4)_4': Unit({'conv': span(0, 4)}, {'fc1': blocks(4, 9)},
                              act=36, flops=lambda k: 36 * 27 + 9 * 7),
        'fc1_(0, 7)_7': Unit({'fc1': span(0, 7)}, {'fc2': span(0, 7)}, act=1, flops=lambda k: 36 + 5)},
    'Tokens': {
        'embed_(0, 6)_6': Unit({'embed': span(0, 6), 'fc2': span(0, 6)}, {'fc1': span(0, 6), 'head': span(0, 6)},
                               act=9 + 9, flops=lambda k: 9 * 4 * 3 + 9 * 8 + 9 * 8 + 4),
        'fc1_(0, 8)_8': Unit({'fc1': span(0, 8)}, {'fc2': span(0, 8)}, act=9, flops=lambda k: 9 * 6 + 9 * 6)},
    'TwoBatches': {
        'stem_(0, 5)_5': Unit({'stem': span(0, 5)}, {'whole': span(0, 5), 'part': span(0, 5)},
                              act=36, flops=lambda k: 36 * 27 + 36 * 2 + 2 * 18 * 9 * 2)},
    'Optional': {
        'stem_(0, 5)_5': Unit({'stem': span(0, 5)}, {'main': span(0, 5), 'side': span(0, 5)},
                              act=36, flops=lambda k: 36 * 27 + 36 * 2 + 36 * 9 * 2)},
}
