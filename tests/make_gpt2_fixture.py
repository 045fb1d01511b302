"""Write tests/fixtures/gpt2.npz: a small GPT-2 of the package transformers, with what it computes.

    python tests/make_gpt2_fixture.py       # needs transformers 5; the tests only read the file

The file holds the config.json, the weights under transformers' names, tokens, their logits, and what
transformers continues them with, greedily. Weights and biases are large, because zeros hide mistakes.
"""
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel


def make_model():
    """Return a random model of 2 layers in which every parameter matters."""
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=24, n_layer=2, n_head=3)
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        mean = 1.0 if 'ln_' in name and name.endswith('weight') else 0.0
        nn.init.normal_(parameter, mean, 0.3)
    return model


if __name__ == '__main__':
    torch.manual_seed(0)
    model = make_model()
    tokens = torch.randint(0, 50, (3, 20))
    with torch.no_grad():
        logits = model(tokens).logits
    continued = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12,
                               do_sample=False, pad_token_id=0, eos_token_id=None)
    arrays = {'tokens': tokens.numpy(), 'logits': logits.numpy(), 'continued': continued.numpy()}
    arrays['config'] = np.array(json.dumps(model.config.to_dict()))
    for name, tensor in model.state_dict().items():
        if name != 'lm_head.weight':
            arrays[f'weights/{name}'] = tensor.numpy()
    path = Path(__file__).parent / 'fixtures' / 'gpt2.npz'
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size, 'bytes')
