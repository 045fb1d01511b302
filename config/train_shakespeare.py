"""A character-level GPT on Tiny Shakespeare, 2.7 M parameters, for a laptop.

Val loss 1.437 ± 0.004 nats (3 seeds) in 3:34 minutes on two CPU cores with bfloat16: results/shakespeare.md.
"""
dataset = 'shakespeare'

n_layer = 6
n_head = 3
n_embd = 192
block_size = 256
batch_size = 6
max_iters = 1900
max_minutes = 5
eval_interval = 380

optimizer = 'muon'
learning_rate = 5e-3
schedule = 'linear'
warmup_iters = 40
beta2 = 0.95
weight_decay = 0.0
