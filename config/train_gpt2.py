"""GPT-2 of 124 M parameters from scratch, on any stream of GPT-2's tokens, for eight GPUs.

    python data/text/prepare.py --input=FOLDER --out=mytext
    torchrun --nproc_per_node=8 train.py config/train_gpt2.py --dataset=mytext

The default data set is only there to try it, with --batch_size=24 --micro_batch_size=12. Not run yet: no GPU
was available. A step reads 480 windows of 1,024 tokens, 12 at a time on each of 8 GPUs in
5 micro-batches, which is 491,520 tokens; 20,000 steps read 9.8 billion. By arithmetic: a token costs 6 FLOPs
per parameter and 12 * n_layer * n_embd * block_size / 2 for attention, 0.8 GFLOP in all, a run 8e18 FLOPs. At
300 TFLOP/s on each GPU, a third of an H200's peak in bfloat16, that is about one hour.
"""
dataset = 'shakespeare_gpt2'

model = 'gpt2'
size = '124M'
batch_size = 480
micro_batch_size = 12
max_iters = 20_000
eval_interval = 500

optimizer = 'adamw'
learning_rate = 6e-4
schedule = 'cosine'
warmup_iters = 500
min_lr = 6e-5
beta2 = 0.95
weight_decay = 0.1
