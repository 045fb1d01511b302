"""English to French on the WMT14 pieces and Tatoeba, with the shape of a course's exercise.

6 + 6 layers: how many times a word is looked at again in the light of the others. Width 512: the room each
word has for what it means; 8 heads of 64: the ways in which it can look at once. A feed-forward of 128, four
times narrower than the stream instead of four times wider: little is computed word by word, attention has to
do the work. No dropout and no smoothing: in three passes it learns the short sentences by heart, the news not
at all. Loss and BLEU: results/translation_enfr.md. Under two hours on one thread of a CPU, in 12 GB.
"""
dataset = 'wmt_enfr'
prepare = '--corpora=europarl,newstest,tatoeba --vocab_size=8000'

model = 'transformer'
n_layer = 6
n_head = 8
n_embd = 512
n_hidden = 128
block_size = 192
dropout = 0.0
label_smoothing = 0.0
batch_size = 512
micro_batch_size = 64
epochs = 3
eval_interval = 345

optimizer = 'muon'
learning_rate = 3e-3
schedule = 'onecycle'
warmup_fraction = 0.1
beta2 = 0.98
weight_decay = 0.0
