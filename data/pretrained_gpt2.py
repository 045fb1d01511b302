"""GPT-2 in Hugging Face's format: a folder that the package transformers reads and writes.

    model = gpt2.Model.from_pretrained('gpt2')          # models/gpt2.py
    write('copy', model, tokenizer)

Its tensors are ours under other names; data/pretrained.py reads and writes the files. transformers writes
'transformer.' before each name, the files on the hub lack it: both are read.

    models/gpt2.py                      Hugging Face
    embed.weight                        wte.weight
    embed_pos.weight                    wpe.weight
    blocks.2.norm1.weight               h.2.ln_1.weight
    blocks.2.attention.qkv.weight       h.2.attn.c_attn.weight, transposed
    blocks.2.fc.weight                  h.2.mlp.c_fc.weight, transposed
    norm.weight                         ln_f.weight
"""
import re

from core.errors import UserError
from data import pretrained

TENSOR_NAMES = [    # (regular expression for a part of our name, Hugging Face's part), applied in this order
    (r'^embed_pos', 'wpe'),
    (r'^embed', 'wte'),
    (r'^norm', 'ln_f'),
    (r'^blocks', 'h'),
    (r'\.norm', '.ln_'),
    (r'\.attention\.qkv', '.attn.c_attn'),
    (r'\.attention\.proj', '.attn.c_proj'),
    (r'(\d)\.(fc|proj)', r'\1.mlp.c_\2'),
]
TRANSPOSED = re.compile(r'\.c_(attn|proj|fc)\.weight$')     # (in, out) there, (out, in) in a Linear
FIELD_NAMES = {     # field of our Config: field of config.json
    'vocab_size': 'vocab_size',
    'block_size': 'n_positions',
    'n_layer': 'n_layer',
    'n_head': 'n_head',
    'n_embd': 'n_embd',
}
DROPOUTS = 'resid_pdrop', 'embd_pdrop', 'attn_pdrop'        # one rate here; when read, that of the first
CONSTANTS = {       # what models/gpt2.py takes for granted
    'model_type': 'gpt2',
    'activation_function': 'gelu_new',
    'layer_norm_epsilon': 1e-5,
    'scale_attn_weights': True,
    'scale_attn_by_inverse_layer_idx': False,
    'add_cross_attention': False,
    'tie_word_embeddings': True,
}


def hf_name(name):
    """Return Hugging Face's name, without 'transformer.', of a parameter of models/gpt2.py."""
    for ours, theirs in TENSOR_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def config_from_hf(hf_config):
    """Return the fields of Config for those of a config.json.

    Raises UserError for a model that models/gpt2.py does not have.
    """
    n_embd = hf_config.get('n_embd')
    constants = CONSTANTS
    if type(n_embd) is int:
        constants = CONSTANTS | {'n_inner': 4 * n_embd}
    pretrained.check_constants(hf_config, constants)
    fields = {'size': 'custom'}
    for ours, theirs in FIELD_NAMES.items():
        value = hf_config.get(theirs)
        if type(value) is not int or value < 1:
            raise UserError(f'{theirs} of config.json: expected int from 1 on, found {value!r}')
        fields[ours] = value
    rate = hf_config.get('resid_pdrop', 0.1)
    if type(rate) not in (int, float):
        raise UserError(f'resid_pdrop of config.json: expected float, found {rate!r}')
    fields['dropout'] = float(rate)
    return fields


def read(folder):
    """Return the fields of Config and the weights, {Hugging Face's name: tensor as nn.Linear has it}.

    Raises UserError for a folder that is damaged or has another model.
    """
    fields = config_from_hf(pretrained.read_config(folder))
    weights = {}
    for name, tensor in pretrained.read_weights(folder).items():
        name = name.removeprefix('transformer.')
        is_transposed = TRANSPOSED.search(name) and tensor.dim() == 2
        weights[name] = tensor.mT if is_transposed else tensor
    return fields, weights


def load_weights(model, weights):
    """Copy the weights that `read` returns into a model of models/gpt2.py. Other tensors are ignored.

    Raises UserError for a tensor that is missing, or has another shape or dtype.
    """
    parameters = {hf_name(name): parameter for name, parameter in model.named_parameters()}
    pretrained.copy_weights(parameters, weights)


def write(folder, model, tokenizer=None):
    """Write a model of models/gpt2.py and its tokenizer, if it has one, as a folder for transformers."""
    config = model.config
    hf_config = {theirs: getattr(config, ours) for ours, theirs in FIELD_NAMES.items()}
    hf_config |= CONSTANTS | dict.fromkeys(DROPOUTS, config.dropout)
    hf_config['architectures'] = ['GPT2LMHeadModel']
    weights = {}
    for name, parameter in model.named_parameters():        # the tied head is not among them
        name = f'transformer.{hf_name(name)}'
        weight = parameter.detach()
        weights[name] = weight.mT if TRANSPOSED.search(name) else weight
    pretrained.write(folder, hf_config, weights, tokenizer)
