"""Hugging Face model folders: weights, config and tokenizer, read and written with torch alone.

    config = read_config('t5-small')            # config.json, a dict
    weights = read_weights('t5-small')          # model.safetensors, {name: tensor}
    tokenizer = read_tokenizer('t5-small')      # tokenizer.json or GPT-2's files; None if there are none
    write('copy', config, weights, tokenizer)

As a script it writes such a folder from a run: python data/pretrained.py out/t5_multi30k FOLDER

A .safetensors file (https://github.com/huggingface/safetensors) is a header and the bytes of the tensors, so
reading one executes nothing. What the header says is checked: a file from the internet may say anything.

    uint64, N     N bytes of JSON                                                   the rest
    N             {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}      w | ...

data_offsets are relative to the end of the header; the tensors lie one after another, without gaps.
"""
import sys
if __name__ == '__main__':
    sys.path.insert(0, __file__.rsplit('/', 2)[0])      # the root of the repository
import json
import math
import mmap
import runpy
from collections import Counter
from pathlib import Path

import torch

from core.errors import UserError
from data import gpt2_bpe, store, unigram

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'      # which tensor is in which file, if there are several
PICKLE = 'pytorch_model.bin'                # what there was before .safetensors
GPT2_FILES = [('merges.txt', 'vocab.json'), ('vocab.bpe', 'encoder.json')]  # Hugging Face's and OpenAI's
MAX_HEADER = 100_000_000                    # bytes; the limit of the safetensors library too
DTYPES = {
    'BOOL': torch.bool, 'U8': torch.uint8, 'U16': torch.uint16, 'U32': torch.uint32, 'U64': torch.uint64,
    'I8': torch.int8, 'I16': torch.int16, 'I32': torch.int32, 'I64': torch.int64,
    'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2, 'BF16': torch.bfloat16,
    'F16': torch.float16, 'F32': torch.float32, 'F64': torch.float64, 'C64': torch.complex64}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
        return read_safetensors(folder / WEIGHTS)
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
        for name, tensor in read_safetensors(folder / file).items():
            if name in weights:
                raise UserError(f'{folder / file}: {name}: expected in one file, found in two')
            weights[name] = tensor
    for name, file in file_of.items():
        if name not in weights:
            raise UserError(f'{folder / file}: {name}: expected here by {INDEX}, found in no file')
    return weights


def read_safetensors(file):
    """Return the tensors of a .safetensors file, {name: tensor}.

    The file is mapped into memory and is not copied. The mapping is private: what is written to a tensor does
    not reach the file. It lives as long as one of its tensors.
    """
    file = Path(file)
    try:
        with open(file, 'rb') as stream:
            size = file.stat().st_size
            n_header = int.from_bytes(stream.read(8), 'little')
            start = 8 + n_header                                    # of the first tensor
            if size < start or not 2 <= n_header <= MAX_HEADER:
                raise UserError(f'{file}: expected a header of 2 to {MAX_HEADER:,} bytes and tensors, found '
                                f'{size:,} bytes in total and a header of {n_header:,}')
            header = parse_json(stream.read(n_header), f'{file}: header')
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:              # ValueError: a name with a zero byte
        raise UserError(f'{file}: {getattr(error, "strerror", None) or error}')
    header.pop('__metadata__', None)
    for name, spec in header.items():
        check_tensor(f'{file}: {name}', spec)
    check_layout(file, header, size - start)

    everything = torch.frombuffer(mapping, dtype=torch.uint8)       # (size,)
    weights = {}
    for name, spec in header.items():
        begin, end = spec['data_offsets']
        dtype = DTYPES[spec['dtype']]
        flat = everything[start + begin:start + end]                # (bytes,)
        if (start + begin) % dtype.itemsize:
            flat = flat.clone()                                     # a view of another dtype must be aligned
        weights[name] = flat.view(dtype).view(spec['shape'])
    return weights


def check_tensor(where, spec):
    """Raise UserError unless the entry of a tensor in the header is complete and agrees with itself."""
    match spec:
        case {'dtype': str(dtype), 'shape': list(shape), 'data_offsets': [begin, end]}:
            numbers = [*shape, begin, end]
        case _:
            raise UserError(f'{where}: expected dtype, shape and two data_offsets, found {str(spec)[:80]}')
    if dtype not in DTYPES:
        raise UserError(f'{where}: expected a dtype of {", ".join(DTYPES)}, found {dtype!r}')
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
        raise UserError(f'{where}: expected whole numbers from 0 on, found data_offsets {[begin, end]} and '
                        f'shape {shape}')
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        raise UserError(f'{where}: expected {expected:,} bytes for {dtype} {shape}, found {end - begin:,}')


def check_layout(file, header, size):
    """Raise UserError unless the tensors lie one after another and fill the `size` bytes after the header."""
    position = 0
    for name, spec in sorted(header.items(), key=lambda item: item[1]['data_offsets']):
        begin, end = spec['data_offsets']
        if begin != position or end > size:
            raise UserError(f'{file}: {name}: expected data_offsets from {position:,} to at most {size:,}, '
                            f'found {begin:,} to {end:,}')
        position = end
    if position != size:
        raise UserError(f'{file}: expected {position:,} bytes after the header, found {size:,}')


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


def parse_json(text, where):
    """Return the object that JSON describes as a dict. Raises UserError for names that occur twice, too."""
    try:
        value = json.loads(text.decode('utf-8'), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:       # RecursionError: brackets within brackets
        raise UserError(f'{where}: expected JSON, found {error}')
    if not isinstance(value, dict):
        raise UserError(f'{where}: expected a JSON object, found {type(value).__name__}')
    return value


def without_duplicates(pairs):
    """Return the pairs of a JSON object as a dict. Raises ValueError if a name occurs twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        [(name, count)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f'the name {name!r} {count} times')
    return value


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
        write_weights(folder, weights)
        for name, text in texts.items():
            store.write_atomically(folder / name, text.encode('utf-8'))
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror or error}', code=4)


def write_weights(folder, tensors, metadata={'format': 'pt'}):
    """Write model.safetensors, all or nothing. Raises OSError if the disk cannot be written.

    Each name gets bytes of its own: of tensors that share their memory pass one.
    """
    # The library's order, wide dtypes first: so each tensor begins at a multiple of its itemsize.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = {'__metadata__': metadata}
    content = []
    position = 0
    for name in names:
        tensor = tensors[name]
        end = position + tensor.nbytes
        header[name] = {'dtype': DTYPE_NAMES[tensor.dtype], 'shape': list(tensor.shape),
                        'data_offsets': [position, end]}
        own = tensor.detach().cpu().contiguous()
        flat = own.as_strided([own.numel()], [1])       # reshape(-1) may keep another stride of one element
        content.append(flat.view(torch.uint8).numpy())  # (bytes,)
        position = end
    text = json.dumps(header, separators=(',', ':')).encode('utf-8')
    text += b' ' * (-len(text) % 8)                     # the first tensor begins at a multiple of 8 bytes
    n_header = len(text).to_bytes(8, 'little')
    store.write_atomically(Path(folder) / WEIGHTS, b''.join([n_header, text, *content]))


if __name__ == '__main__':
    runpy.run_path(str(store.ROOT / 'core' / 'export.py'), run_name='__main__')
