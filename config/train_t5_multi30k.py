"""English to French on Multi30k with a small T5, from scratch, on a CPU.

Every source sentence begins with the name of its task, "translate English to French: ". 55.6 BLEU on the test
set of 2016 by a beam of 4 (one run), after 27 minutes on two CPU cores with bfloat16: results/t5.md.
"""
dataset = 'multi30k_t5'

model = 't5'
size = 'tiny'
block_size = 128
dropout = 0.1
label_smoothing = 0.1
batch_size = 128
micro_batch_size = 64
epochs = 8
eval_interval = 452

optimizer = 'muon'
learning_rate = 4e-2
relative_lr = True
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
