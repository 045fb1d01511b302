"""A character-level GPT on Tiny Shakespeare of nanoGPT's size, 10.6 M parameters, for one GPU.

Not run yet: no GPU was available.
"""
dataset = 'shakespeare'

n_layer = 6
n_head = 6
n_embd = 384
block_size = 256
dropout = 0.2
batch_size = 64
max_iters = 2000
eval_interval = 100

optimizer = 'muon'
learning_rate = 5e-3
schedule = 'linear'
warmup_iters = 50
beta2 = 0.95
weight_decay = 0.1
