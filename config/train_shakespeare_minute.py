"""A character-level GPT on Tiny Shakespeare, 0.8 M parameters, for a minute.

Val loss 1.531 ± 0.006 nats (3 seeds) in 57 seconds on two CPU cores with bfloat16:
results/shakespeare_minute.md. In float32 on one thread, at equal minutes, Muon reaches 1.800 ± 0.011 and
AdamW 1.853 ± 0.002 (3 seeds): results/speed.md.
"""
dataset = 'shakespeare'

n_layer = 4
n_head = 2
n_embd = 128
block_size = 128
batch_size = 12
max_iters = 1250
eval_interval = 1250

optimizer = 'muon'
learning_rate = 5e-3
schedule = 'linear'
warmup_iters = 40
beta2 = 0.95
weight_decay = 0.0
