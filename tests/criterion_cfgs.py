"""Criteria in all their variants."""

CFGS = ['L1', 'L2', 'FPGM', dict(type='FPGM', distance='cosine'), 'BNScale', dict(type='BNScale', combine='and'),
        'APoZ', 'ThiNet', 'Taylor', dict(type='Taylor', source='weights'), 'Oracle', 'MeanActivation', 'NISP', 'DCP',
        'Random', 'GroupFisher', 'WholeGroup', dict(type='WholeGroup', source='distances'),
        dict(type='WholeGroup', source='taylor'), 'LeastSquaresError', dict(type='OrderedBy', widths='GroupFisher'),
        'MeasuredError',
        dict(type='MeasuredError', order='L2')]
