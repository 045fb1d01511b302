"""Headings for sections of WikiText-2 with a small T5, on a CPU.

Not run yet. From scratch, or with --init_from=out/t5_spans.
"""
dataset = 't5_summarize'

model = 't5'
size = 'tiny'
block_size = 128
dropout = 0.1
label_smoothing = 0.1
batch_size = 128
micro_batch_size = 64
epochs = 10
eval_interval = 41

optimizer = 'muon'
learning_rate = 4e-2
relative_lr = True
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
