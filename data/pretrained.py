"""Hugging Face model folders: weights, config and tokenizer, read and written with torch alone.

    config = read_config('t5-small')            # config.json, a dict
    weights = read_weights('t5-small')          # model.safetensors, {name: tensor}
    tokenizer = read_tokenizer('t5-small')      # tokenizer.json or GPT-2's files; None if there are none
    write('copy', config, weights, tokenizer)

As a script it writes such a folder from a run: python data/pretrained.py out/t5_multi30k FOLDER
"""
import sys
if __name__ == '__main__':
    sys.path.insert(0, __file__.rsplit('/', 2)[0])      # the root of the repository
import json
import runpy
from pathlib import Path

import torch

from core.errors import UserError
from data import gpt2_bpe, store, tensor_file, unigram
from data.tensor_file import parse_json

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'      # which tensor is in which file, if there are several
PICKLE = 'pytorch_model.bin'                # what there was before .safetensors
GPT2_FILES = [('merges.txt', 'vocab.json'), ('vocab.bpe', 'encoder.json')]  # Hugging Face's and OpenAI's


# --- reading

def read_config(folder):
    """Return a folder's config.json as a dict. Raises UserError if it is missing or not an object."""
    return read_json(Path(folder) / 'config.json')


def check_constants(hf_config, constants):
    """Raise UserError if a config.json has other values than a model file takes for granted."""
    for name, expected in constants.items():
        found = hf_config.get(name)
        if found is not None and found != expected:
            raise UserError(f'{name} of config.json: expected {expected!r}, found {found!r}')


def read_weights(folder):
    """Return the tensors of a folder, {name: tensor}, from model.safetensors or the files of its index.

    Raises UserError, with the file and the tensor, for whatever is damaged or missing.
    """
    folder = Path(folder)
    if (folder / WEIGHTS).exists():
        return tensor_file.read(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return read_sharded(folder)
    if (folder / PICKLE).exists():
        return read_pickle(folder / PICKLE)
    raise UserError(f'{folder}: expected {WEIGHTS}, {INDEX} or {PICKLE}, found none of them')


def read_pickle(file):
    """Return the tensors of a pytorch_model.bin. What is not plain data is an error and not executed."""
    try:
        weights = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:          # damage can show itself as any exception
        reason = str(error).strip().split('\n')[0]
        raise UserError(f'{file}: expected tensors, found {type(error).__name__}: {reason}')
    values = weights.values() if isinstance(weights, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise UserError(f'{file}: expected a dict of tensors, found something else')
    return weights


def read_sharded(folder):
    """Return the tensors of the files that the index of a folder names."""
    index = folder / INDEX
    file_of = read_json(index).get('weight_map')
    if not isinstance(file_of, dict):
        raise UserError(f'{index}: expected a weight_map, found {type(file_of).__name__}')
    for name, file in file_of.items():
        # No '../x', no '/x'. A symbolic link may lead anywhere: in Hugging Face's cache all files are links.
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f'{index}: {name}: expected the name of a file beside it, found {file!r}')
    weights = {}
    for file in sorted(set(file_of.values())):
        for name, tensor in tensor_file.read(folder / file).items():
            if name in weights:
                raise UserError(f'{folder / file}: {name}: expected in one file, found in two')
            weights[name] = tensor
    for name, file in file_of.items():
        if name not in weights:
            raise UserError(f'{folder / file}: {name}: expected here by {INDEX}, found in no file')
    return weights


def copy_weights(parameters, weights):
    """Copy weights into parameters, both {Hugging Face's name: tensor}. Other weights are ignored.

    Raises UserError for a tensor that is missing, or has another shape or dtype.
    """
    for name, parameter in parameters.items():
        expected = f'{name}: expected {parameter.dtype} {tuple(parameter.shape)}'
        if name not in weights:
            raise UserError(f'{expected}, found no such tensor')
        tensor = weights[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            raise UserError(f'{expected}, found {tensor.dtype} {tuple(tensor.shape)}')
        parameter.data.copy_(tensor)


def read_tokenizer(folder):
    """Return the tokenizer of a folder like T5's or GPT-2's, None if there is no file of one.

    Raises UserError for a tokenizer of another kind, and for a damaged file.
    """
    folder = Path(folder)
    file = folder / 'tokenizer.json'
    try:
        if file.exists():
            spec = read_json(file)
            if 'merges' in spec['model']:       # the file of openai-community/gpt2 names no type
                return gpt2_bpe.from_tokenizer_json(spec)
            return unigram.Unigram(spec)
        for merges, ids in GPT2_FILES:
            file = folder / merges
            if file.exists():
                lines = file.read_text(encoding='utf-8').strip().split('\n')
                return gpt2_bpe.from_merges(lines[1:], read_json(folder / ids))
        return None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = error if type(error) is ValueError else f'not a whole {file.name}: {error!r}'
        raise UserError(f'{file}: {reason}')


def read_json(file):
    """Return the object in a JSON file as a dict. Raises UserError if there is none."""
    try:
        return parse_json(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f'{file}: {error.strerror}')


# --- writing

def write(folder, config, weights, tokenizer=None):
    """Write a folder from the dict of its config.json, its tensors and, if there is one, a Unigram tokenizer.

    Raises UserError, code 4, if the disk cannot be written.
    """
    folder = Path(folder)
    texts = {'config.json': json.dumps(config, indent=2) + '\n'}
    if tokenizer:
        texts['tokenizer.json'] = tokenizer.tokenizer_json()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensor_file.write(folder / WEIGHTS, weights)
        for name, text in texts.items():
            store.write_atomically(folder / name, text.encode('utf-8'))
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror or error}', code=4)


if __name__ == '__main__':
    runpy.run_path(str(store.ROOT / 'core' / 'export.py'), run_name='__main__')
