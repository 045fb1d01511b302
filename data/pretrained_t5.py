"""T5 in Hugging Face's format: a folder that the package transformers reads and writes.

    model = t5.Model.from_pretrained('t5-small')        # models/t5.py
    write('copy', model, tokenizer)

Its tensors are ours under other names; data/pretrained.py reads and writes the files.

    models/t5.py                        Hugging Face
    embed.weight                        shared.weight
    bias_src.weight                     encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
    encoder.2.attention.q.weight        encoder.block.2.layer.0.SelfAttention.q.weight
    decoder.2.norm_cross.weight         decoder.block.2.layer.1.layer_norm.weight
    decoder.2.mlp.proj.weight           decoder.block.2.layer.2.DenseReluDense.wo.weight
"""
import re

import torch

from core.errors import UserError
from data import pretrained

TENSOR_NAMES = [    # (regular expression for a part of our name, Hugging Face's part), applied in this order
    (r'^embed', 'shared'),
    (r'^head', 'lm_head'),
    (r'^norm_src', 'encoder.final_layer_norm'),
    (r'^norm_tgt', 'decoder.final_layer_norm'),
    (r'^bias_src', 'encoder.0.attention.relative_attention_bias'),
    (r'^bias_tgt', 'decoder.0.attention.relative_attention_bias'),
    (r'^(..coder)\.(\d)', r'\1.block.\2'),
    (r'\.attention', '.layer.0.SelfAttention'),
    (r'\.norm_attention', '.layer.0.layer_norm'),
    (r'\.cross', '.layer.1.EncDecAttention'),
    (r'\.norm_cross', '.layer.1.layer_norm'),
    (r'^(encoder.*)\.mlp', r'\1.layer.1.DenseReluDense'),
    (r'^(encoder.*)\.norm_mlp', r'\1.layer.1.layer_norm'),
    (r'^(decoder.*)\.mlp', r'\1.layer.2.DenseReluDense'),
    (r'^(decoder.*)\.norm_mlp', r'\1.layer.2.layer_norm'),
    (r'\.gate\.', '.wi_0.'),
    (r'\.proj\.', '.wo.'),
]
FIELD_NAMES = {     # field of our Config: field of config.json
    'vocab_size': 'vocab_size',
    'block_size': 'n_positions',
    'n_layer': 'num_layers',
    'n_layer_decoder': 'num_decoder_layers',
    'n_head': 'num_heads',
    'n_embd': 'd_model',
    'd_kv': 'd_kv',
    'd_ff': 'd_ff',
    'dropout': 'dropout_rate',
    'n_bucket': 'relative_attention_num_buckets',
    'max_distance': 'relative_attention_max_distance',
}
OPTIONAL = {        # fields that a config.json may lack or leave null, and what they then are
    'n_positions': 512,                 # T5 has no longest sentence: that of pretraining
    'num_decoder_layers': 0,            # as many as the encoder has
    'dropout_rate': 0.1,
    'relative_attention_num_buckets': 32,
    'relative_attention_max_distance': 128,
}
CONSTANTS = {       # what models/t5.py takes for granted
    'model_type': 't5',
    'pad_token_id': 0,
    'eos_token_id': 1,
    'decoder_start_token_id': 0,
    'layer_norm_epsilon': 1e-6,
}


def hf_name(name, gated):
    """Return Hugging Face's name of a parameter of models/t5.py, whose MLPs are gated or not."""
    for ours, theirs in TENSOR_NAMES:
        name = re.sub(ours, theirs, name)
    return name.replace('.fc.', '.wi_1.' if gated else '.wi.')


def config_from_hf(hf_config):
    """Return the fields of Config, but for `tie`, for those of a config.json.

    Raises UserError for a model that models/t5.py does not have.
    """
    pretrained.check_constants(hf_config, CONSTANTS)
    fields = {'size': 'custom'}
    for ours, theirs in FIELD_NAMES.items():
        value = hf_config.get(theirs)
        if value is None:
            value = OPTIONAL.get(theirs)
        kind = float if ours == 'dropout' else int
        if type(value) not in (int, kind) or value < 0:
            raise UserError(f'{theirs} of config.json: expected {kind.__name__} from 0 on, found {value!r}')
        fields[ours] = value
    activation = hf_config.get('feed_forward_proj', 'relu')
    if activation not in ('relu', 'gated-gelu'):
        raise UserError('feed_forward_proj of config.json: expected relu or gated-gelu, found '
                        f'{activation!r}')
    fields['gated'] = activation == 'gated-gelu'
    # Version 1.1 does not scale. tie_word_embeddings = false meant that before transformers 5, which writes
    # true for every T5 and has a field of its own for it.
    scale_head = hf_config.get('scale_decoder_outputs')
    if scale_head is None:
        scale_head = hf_config.get('tie_word_embeddings') is not False
    fields['scale_head'] = scale_head
    return fields


def to_hf_config(config):
    """Return the fields of a config.json for a Config of models/t5.py."""
    hf_config = {theirs: getattr(config, ours) for ours, theirs in FIELD_NAMES.items()}
    hf_config |= CONSTANTS
    hf_config['architectures'] = ['T5ForConditionalGeneration']
    hf_config['is_encoder_decoder'] = True
    hf_config['feed_forward_proj'] = 'gated-gelu' if config.gated else 'relu'
    hf_config['tie_word_embeddings'] = config.tie
    hf_config['scale_decoder_outputs'] = config.scale_head
    return hf_config


def read(folder):
    """Return the fields of Config and the weights, {Hugging Face's name: tensor}, of a folder.

    Raises UserError for a folder that is damaged or has another model.
    """
    weights = pretrained.read_weights(folder)
    fields = config_from_hf(pretrained.read_config(folder))
    # Whether the head is the embedding: config.json does not say (see above), and old files hold it twice.
    head = weights.get('lm_head.weight')
    shared = weights.get('shared.weight', head)
    fields['tie'] = head is None or (head.dtype == shared.dtype and torch.equal(head, shared))
    return fields, weights


def load_weights(model, weights):
    """Copy weights under Hugging Face's names into a model of models/t5.py. Other tensors are ignored.

    Raises UserError for a tensor that is missing, or has another shape or dtype.
    """
    gated = model.config.gated
    parameters = {hf_name(name, gated): parameter for name, parameter in model.named_parameters()}
    pretrained.copy_weights(parameters, weights)


def write(folder, model, tokenizer=None):
    """Write a model of models/t5.py and its tokenizer, if it has one, as a folder that transformers reads."""
    weights = {}
    for name, parameter in model.named_parameters():        # a tied head is not among them
        theirs = hf_name(name, model.config.gated)
        weights[theirs] = parameter.detach()
    pretrained.write(folder, to_hf_config(model.config), weights, tokenizer)
