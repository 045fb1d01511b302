"""One small T5 that translates and summarizes, as the prefix of a source says, on a CPU.

Not run yet. From scratch, or with --init_from=out/t5_spans.
"""
dataset = 't5_mixture'

model = 't5'
size = 'tiny'
block_size = 128
dropout = 0.1
label_smoothing = 0.1
batch_size = 128
micro_batch_size = 64
epochs = 1
eval_interval = 113

optimizer = 'muon'
learning_rate = 4e-2
relative_lr = True
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
