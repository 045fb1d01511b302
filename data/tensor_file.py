"""Files of tensors, .safetensors (https://github.com/huggingface/safetensors), with torch alone.

    write('model.safetensors', {'w': tensor})
    tensors = read('model.safetensors')         # {'w': tensor}

Such a file is a header and the bytes of the tensors, so reading one executes nothing. What the header says is
checked: a file from the internet may say anything.

    uint64, N     N bytes of JSON                                                   the rest
    N             {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}      w | ...

data_offsets are relative to the end of the header; the tensors lie one after another, without gaps.
"""
import json
import math
import mmap
from collections import Counter
from pathlib import Path

import torch

from core.errors import UserError
from data import store

MAX_HEADER = 100_000_000                    # bytes; the limit of the safetensors library too
DTYPES = {
    'BOOL': torch.bool, 'U8': torch.uint8, 'U16': torch.uint16, 'U32': torch.uint32, 'U64': torch.uint64,
    'I8': torch.int8, 'I16': torch.int16, 'I32': torch.int32, 'I64': torch.int64,
    'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2, 'BF16': torch.bfloat16,
    'F16': torch.float16, 'F32': torch.float32, 'F64': torch.float64, 'C64': torch.complex64}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(file):
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


def write(file, tensors, metadata={'format': 'pt'}):
    """Write {name: tensor} to a file, all or nothing. Raises OSError if the disk cannot be written.

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
    store.write_atomically(file, b''.join([n_header, text, *content]))


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
