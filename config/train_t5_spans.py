"""A small T5 on WikiText-2 by span corruption, on a CPU: it learns to fill in what is cut out of a text.

Not run yet. To fine-tune it: python train.py config/train_t5_translate.py --init_from=out/t5_spans
"""
dataset = 't5_spans'

model = 't5'
size = 'tiny'
block_size = 256
dropout = 0.1
batch_size = 64
micro_batch_size = 32
epochs = 3
eval_interval = 48

optimizer = 'muon'
learning_rate = 4e-2
relative_lr = True
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.1
