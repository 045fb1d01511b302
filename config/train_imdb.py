"""Positive or negative: a transformer encoder on the 25,000 + 25,000 film reviews of IMDB, for a CPU.

Not run yet.
"""
dataset = 'imdb'

model = 'classifier'
n_layer = 2
n_head = 4
n_embd = 128
n_hidden = 512
block_size = 512
dropout = 0.3
token_dropout = 0.3
batch_size = 64
micro_batch_size = 32
epochs = 5
max_minutes = 15
eval_interval = 351

optimizer = 'adamw'
learning_rate = 1e-3
schedule = 'linear'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
