"""Write tests/fixtures/t5.npz: small T5s of the package transformers, with what they compute.

    python tests/make_t5_fixture.py         # needs transformers 5; the tests only read the file

For each case the file holds the config.json, the weights under transformers' names, sources and decoder
inputs with padding, the logits, and what transformers generates: greedily, and by beam search with
early_stopping='never' and length_penalty 0. Then a score is log p and no more, in transformers as in
core/search.py, and the search goes on while a better one is possible. Other length penalties differ: T^p
there, ((5 + T) / 6)^p here. Two more things differ: transformers starts a new beam for each one that ends,
and does not ask for an end at the maximum length. So models are taken for which neither matters: every target
ends before the maximum length, and 16 beams find what 8 beams find. Random weights rarely end a target, so
each model learns for a few steps to count upwards from the first token of its source.
"""
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

CASES = {       # name: (relu or gated-gelu, scaled head, tied head, layers of encoder and decoder)
    'v1_0_tied': ('relu', True, True, (2, 1)),
    'v1_0_untied': ('relu', True, False, (1, 2)),
    'v1_1_tied': ('gated-gelu', False, True, (1, 1)),
    'v1_1_untied': ('gated-gelu', False, False, (1, 2)),
}
VOCAB_SIZE = 20
MAX_NEW_TOKENS = 12
N_BEAM = 8
N_STEPS = 200


def make_model(activation, scale_head, tie, layers):
    """Return a random model with norms and relative positions that matter."""
    config = T5Config(vocab_size=VOCAB_SIZE, d_model=12, d_kv=6, num_heads=3, d_ff=20, num_layers=layers[0],
                      num_decoder_layers=layers[1], feed_forward_proj=activation,
                      tie_word_embeddings=scale_head, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    if not tie:
        model.lm_head.weight = nn.Parameter(torch.empty(VOCAB_SIZE, 12))
        nn.init.normal_(model.lm_head.weight, std=0.3)
    for name, parameter in model.named_parameters():
        if 'layer_norm' in name:
            nn.init.normal_(parameter, 1.0, 0.3)
        elif 'relative_attention_bias' in name:
            nn.init.normal_(parameter, std=1.0)
    return model


def train(model):
    """Let the model learn to count: from the first token of the source, three to six tokens, then the end."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(N_STEPS):
        src = torch.randint(2, VOCAB_SIZE, (32, 8))
        tgt = src[:, :1] + torch.arange(8)                      # (32, 8)
        tgt = (tgt - 2) % (VOCAB_SIZE - 2) + 2
        end = 3 + src[:, :1] % 4 + torch.randint(0, 2, (32, 1))
        tgt[torch.arange(8) == end] = 1
        tgt[torch.arange(8) > end] = -100
        loss = model(input_ids=src, labels=tgt).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def make_batch():
    """Return src (3, 150) and decoder_input (3, 40): long ones for distant buckets, and padded ones."""
    generator = torch.Generator().manual_seed(1)
    src = torch.randint(2, VOCAB_SIZE, (3, 150), generator=generator)
    decoder_input = torch.randint(2, VOCAB_SIZE, (3, 40), generator=generator)
    decoder_input[:, 0] = 0
    for tokens, lengths in ((src, (150, 30, 4)), (decoder_input, (40, 25, 2))):
        for row, n in zip(tokens, lengths):
            row[n:] = 0
    return src, decoder_input


def generate(model, src, **options):
    """Return the targets as padded ids (B, T), without the start token, and log p of each by beam search."""
    output = model.generate(input_ids=src, attention_mask=(src != 0).long(), max_new_tokens=MAX_NEW_TOKENS,
                            do_sample=False, use_cache=False,      # its cache has the encoder's n_layer
                            return_dict_in_generate=True, output_scores=True, **options)
    return output.sequences[:, 1:], getattr(output, 'sequences_scores', None)


def all_end(targets):
    """Return whether every target has at least three tokens and its end before the maximum length."""
    ends = [row.index(1) if 1 in row else MAX_NEW_TOKENS for row in targets.tolist()]
    return min(ends) >= 2 and max(ends) < MAX_NEW_TOKENS - 1


def make_case(name):
    """Return {what: array} of the first seed for which the two searches are defined alike."""
    src, decoder_input = make_batch()
    beam_options = {'length_penalty': 0.0, 'early_stopping': 'never'}
    for seed in range(20):
        torch.manual_seed(seed)
        model = make_model(*CASES[name])
        loss = train(model)
        greedy, _ = generate(model, src)
        beam, log_p = generate(model, src, num_beams=N_BEAM, **beam_options)
        wider_beam, _ = generate(model, src, num_beams=2 * N_BEAM, **beam_options)
        print(name, 'seed', seed, 'loss', loss, greedy.tolist(), beam.tolist(), log_p.tolist(), flush=True)
        if all_end(greedy) and all_end(beam) and torch.equal(beam, wider_beam):
            break
    else:
        raise SystemExit('no seed will do')
    with torch.no_grad():
        output = model(input_ids=src, attention_mask=(src != 0).long(), decoder_input_ids=decoder_input)
    weights = {key: tensor for key, tensor in model.state_dict().items() if 'embed_tokens' not in key}
    if CASES[name][2]:
        del weights['lm_head.weight']
    arrays = {'src': src, 'decoder_input': decoder_input, 'logits': output.logits, 'greedy': greedy,
              'beam': beam, 'log_p': log_p}
    arrays = {f'{name}/{key}': tensor.numpy() for key, tensor in arrays.items()}
    arrays[f'{name}/config'] = np.array(json.dumps(model.config.to_dict()))
    for key, tensor in weights.items():
        arrays[f'{name}/weights/{key}'] = tensor.numpy()
    return arrays


if __name__ == '__main__':
    arrays = {}
    for name in CASES:
        arrays |= make_case(name)
    path = Path(__file__).parent / 'fixtures' / 't5.npz'
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **arrays)
    print(path, path.stat().st_size, 'bytes')
