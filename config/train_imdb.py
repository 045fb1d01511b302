"""Positive or negative: a transformer encoder on the 25,000 + 25,000 film reviews of IMDB, for a CPU.

    python train.py config/train_imdb.py

89.5 % of the test reviews (results/imdb.md).
"""
dataset = 'imdb'

model = 'classifier'
n_layer = 2
n_head = 2
n_embd = 64
n_hidden = 256
block_size = 1024
dropout = 0.2
token_dropout = 0.85
n_pairs = 200_000
batch_size = 64
micro_batch_size = 32
epochs = 6
max_minutes = 15
eval_interval = 355
ema = 0.998

optimizer = 'adamw'
learning_rate = 1e-3
schedule = 'linear'
warmup_fraction = 0.1
beta2 = 0.98
epsilon = 1e-5
weight_decay = 0.1
