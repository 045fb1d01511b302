"""English to French on Multi30k, 29,000 image captions: a small transformer for a CPU.

60.4 BLEU on the test set of 2016 by a beam of 4 and 51.9 on that of 2017 (one run), after 38 minutes on two
CPU cores with bfloat16, in 3.9 GB: results/translation.md.
"""
dataset = 'multi30k'

model = 'transformer'
n_layer = 3
n_head = 4
n_embd = 256
n_hidden = 1024
block_size = 128
dropout = 0.3
batch_size = 256
micro_batch_size = 64
epochs = 32
eval_interval = 904

optimizer = 'muon'
learning_rate = 4e-3
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
