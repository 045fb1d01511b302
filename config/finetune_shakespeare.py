"""Fine-tune OpenAI's GPT-2 of 124 M parameters on Tiny Shakespeare, until it stops getting better.

    hf download openai-community/gpt2 --local-dir gpt2
    python train.py config/finetune_shakespeare.py

gpt2 is a folder with config.json, model.safetensors and the tokenizer's files. Not run yet with these
weights: no network was available.
"""
dataset = 'shakespeare_gpt2'

model = 'gpt2'
init_from = 'hf:gpt2'
dropout = 0.1
batch_size = 32
micro_batch_size = 4
max_iters = 200
eval_interval = 10
patience = 3

optimizer = 'adamw'
learning_rate = 3e-5
schedule = 'constant'
warmup_iters = 10
weight_decay = 0.1
