"""A very small T5 that learns to copy, reverse and sort letters: a first run that ends within a minute."""
dataset = 'toy'

model = 't5'
n_layer = 2
n_head = 4
n_embd = 64
d_kv = 16
d_ff = 128
block_size = 32
dropout = 0.0
batch_size = 128
max_iters = 1200
eval_interval = 400

optimizer = 'muon'
learning_rate = 4e-2
relative_lr = True
schedule = 'onecycle'
warmup_fraction = 0.1
weight_decay = 0.0
