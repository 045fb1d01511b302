"""English to French on three corpora of WMT14, with the base model of Vaswani et al. (2017, table 3).

For one GPU; the corpora UN and Giga are left out. Not run: there was no GPU, nor were the corpora available.
"""
dataset = 'wmt_enfr'
prepare = '--corpora=europarl,commentary,crawl --vocab_size=32000'

model = 'transformer'
n_layer = 6
n_head = 8
n_embd = 512
n_hidden = 2048
block_size = 256
dropout = 0.1
norm = 'post'
pad_to = 8
batch_size = 1024
micro_batch_size = 256
max_iters = 100000
eval_interval = 5000

learning_rate = 7e-4
schedule = 'inverse_sqrt'
warmup_iters = 4000
beta2 = 0.98
weight_decay = 0.0
