"""The time of a training step of models/gpt.py or gpt2.py and of nanoGPT (github.com/karpathy/nanoGPT).

    python results/against_nanogpt.py config/train_shakespeare.py --nanogpt=../nanoGPT --steps=57

Both have one shape; beside gpt2.py it is the same model, with biases. The two take turns, step by step. They
read the same batches in the same way. Neither has a warmup or a schedule. The numbers are in
results/shakespeare.md.
"""
import sys
sys.path.insert(0, __file__.rsplit('/', 2)[0])          # the root of the repository

import os
os.environ.setdefault('GOMP_SPINCOUNT', '3000')         # as train.py does

from importlib import import_module

import torch
from torch import nn

from core.errors import UserError
from results.against import Ours, compare

# --- options of this script; all others are train.py's
steps = 20          # steps that are timed, after three that are not
nanogpt = ''        # folder of a checkout of nanoGPT


class NanoGPT:
    """nanoGPT's model in the shape of ours, and the step of its train.py.

    It computes in bfloat16 on a GPU and in float32 on a CPU, and is compiled if ours is. Its AdamW has the
    options of its config/train_shakespeare_char.py.
    """

    def __init__(self, folder, ours):
        if not os.path.exists(f'{folder}/model.py'):
            raise UserError(f'--nanogpt={folder}: expected a checkout of nanoGPT, found no model.py')
        model = ours.options['model']
        if model not in ('gpt', 'gpt2'):
            raise UserError(f'nanoGPT compares with the models gpt and gpt2, got {model}')
        sys.path.append(folder)
        module = import_module('model')
        names = 'block_size', 'vocab_size', 'n_layer', 'n_head', 'n_embd', 'dropout'
        shape = {name: getattr(ours.config, name) for name in names}
        self.net = module.GPT(module.GPTConfig(**shape, bias=model == 'gpt2')).to(ours.device)
        kind = torch.device(ours.device).type
        self.optimizer = self.net.configure_optimizers(0.1, 1e-3, (0.9, 0.99), kind)
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=kind != 'cpu')
        if ours.compile:
            self.net.compile()
        self.ours = ours

    def step(self, step):
        """Read the batch of a step and update the weights; return the loss."""
        tokens = self.ours.batch(step)['tokens']        # (B, T + 1)
        with self.autocast:
            _, loss = self.net(tokens[:, :-1], tokens[:, 1:].contiguous())
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


if __name__ == '__main__':
    ours = Ours(__file__, sys.argv[1:])
    theirs = NanoGPT(ours.options['nanogpt'], ours)
    compare(ours, 'nanoGPT', theirs.step)
