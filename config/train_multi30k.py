"""English to French on Multi30k, 29,000 captions of pictures: a small transformer for a CPU.

Not run yet.
"""
dataset = 'multi30k'

model = 'transformer'
n_layer = 3
n_head = 4
n_embd = 256
n_hidden = 1024
block_size = 128
dropout = 0.3
flash = False           # on a CPU, attention by hand is the faster one
batch_size = 256
epochs = 24
eval_interval = 452

optimizer = 'muon'
learning_rate = 4e-3
schedule = 'onecycle'
warmup_iters = 0.1
beta2 = 0.98
weight_decay = 0.1
