"""A word-level GPT on WikiText-2, 55 M parameters of which 17 M embed 33,278 words, for one GPU.

Not run yet: no GPU was available.
"""
dataset = 'wikitext2'

n_layer = 12
n_head = 8
n_embd = 512
tie = True
block_size = 256
dropout = 0.5
batch_size = 32
epochs = 40
eval_interval = 1020

optimizer = 'muon'
learning_rate = 3e-3
schedule = 'linear'
warmup_fraction = 0.02
beta2 = 0.95
weight_decay = 0.3
ema = 0.999
