"""A word-level GPT on WikiText-2, 13 M parameters of which 8.5 M embed 33,278 words, for a CPU.

    python train.py config/train_wikitext2.py

Test perplexity 99.4 after 41 minutes on two CPU cores with bfloat16: results/language.md.
"""
dataset = 'wikitext2'

n_layer = 4
n_head = 4
n_embd = 256
n_frequent = 1000
block_size = 256
dropout = 0.3
batch_size = 8
epochs = 7
compile = False         # the adaptive softmax picks rows by their target
eval_interval = 1019

optimizer = 'muon'
learning_rate = 5e-3
schedule = 'linear'
warmup_fraction = 0.02
beta2 = 0.95
weight_decay = 0.1
