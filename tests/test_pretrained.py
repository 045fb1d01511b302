"""data/pretrained.py: folders come back to the bit; a damaged file is named, with its tensor."""
import json, warnings

import pytest
import torch

from core.errors import UserError
from data import pretrained, tensor_file, unigram
from test_unigram import spec

SHAPES = [(), (0,), (3,), (2, 0, 5), (5, 7), (1, 1, 1)]


def some_tensors():
    """Return {name: tensor} of random bytes, of every dtype and several shapes."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, dtype in tensor_file.DTYPES.items():
        for shape in SHAPES:
            n = torch.Size(shape).numel()
            high = 2 if dtype is torch.bool else 256
            raw = torch.randint(0, high, (n * dtype.itemsize,), dtype=torch.uint8, generator=generator)
            tensors[f'{name}.{len(shape)}.{n}'] = raw.view(dtype).view(shape)
    return tensors


def assert_equal(found, expected):
    """Assert that two dicts of tensors have equal names, dtypes, shapes and bytes (NaNs too)."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        raw = [one.clone(memory_format=torch.contiguous_format).reshape(-1) for one in (found[name], tensor)]
        assert torch.equal(raw[0].view(torch.uint8), raw[1].view(torch.uint8)), name


def entry(shape=(2,), begin=0, end=8, dtype='F32'):
    """Return the entry of a tensor in a header."""
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}


def write_file(path, header, content=b'', n_header=None):
    """Write a .safetensors file with whatever header, a dict or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if n_header is None else n_header
    path.write_bytes(length.to_bytes(8, 'little') + text + content)


# --- weights, there and back

def test_every_dtype_and_shape_comes_back_to_the_bit(tmp_path):
    tensors = some_tensors()
    with warnings.catch_warnings():
        warnings.simplefilter('error')          # such as torch's about memory that cannot be written
        tensor_file.write(tmp_path / 'model.safetensors', tensors)
        assert_equal(pretrained.read_weights(tmp_path), tensors)
    assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']


def test_what_is_not_contiguous_or_needs_a_gradient_is_written_as_it_reads(tmp_path):
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    tensors = {'w': weight, 't': weight.t(), 'part': weight[:, 1], 'one': weight[:1, 1], 'zero': weight[0, 1]}
    tensor_file.write(tmp_path / 'model.safetensors', tensors)
    expected = {name: tensor.detach() for name, tensor in tensors.items()}
    assert_equal(pretrained.read_weights(tmp_path), expected)


def test_the_header_is_padded_and_every_tensor_aligned(tmp_path):
    tensors = some_tensors()
    tensor_file.write(tmp_path / 'model.safetensors', tensors)
    raw = (tmp_path / 'model.safetensors').read_bytes()
    n_header = int.from_bytes(raw[:8], 'little')
    header = json.loads(raw[8:8 + n_header])
    assert n_header % 8 == 0 and header.pop('__metadata__') == {'format': 'pt'}
    for name, tensor in tensors.items():
        assert header[name]['data_offsets'][0] % tensor.element_size() == 0


def test_tensors_can_be_changed_and_outlive_the_file(tmp_path):
    tensor_file.write(tmp_path / 'model.safetensors', {'w': torch.arange(6.0)})
    raw = (tmp_path / 'model.safetensors').read_bytes()
    found = pretrained.read_weights(tmp_path)['w']
    found += 1
    assert (tmp_path / 'model.safetensors').read_bytes() == raw         # the mapping is private
    tensor_file.write(tmp_path / 'model.safetensors', {'w': torch.zeros(6)})    # another file takes the name
    (tmp_path / 'model.safetensors').unlink()
    assert found.tolist() == [1, 2, 3, 4, 5, 6]


def test_tensors_that_are_not_aligned_are_read(tmp_path):
    content = b'\1' + torch.tensor([1.5, -2.0]).numpy().tobytes()
    header = {'a': entry((1,), 0, 1, 'U8'), 'b': entry((2,), 1, 9)}
    write_file(tmp_path / 'model.safetensors', header, content)
    assert pretrained.read_weights(tmp_path)['b'].tolist() == [1.5, -2.0]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    tensor_file.write(tmp_path / 'model.safetensors', {'w': torch.ones(2)})
    monkeypatch.setattr('os.replace', lambda *names: (_ for _ in ()).throw(OSError(28, 'No space left')))
    with pytest.raises(UserError, match='No space left') as error:
        pretrained.write(tmp_path, {}, {'w': torch.zeros(2)})
    assert error.value.code == 4 and pretrained.read_weights(tmp_path)['w'].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ['model.safetensors']


def test_the_safetensors_library_reads_our_files_and_we_read_its_files(tmp_path):
    library = pytest.importorskip('safetensors.torch')
    tensors = some_tensors()
    file = tmp_path / 'model.safetensors'
    tensor_file.write(tmp_path / 'model.safetensors', tensors)
    assert_equal(library.load_file(file), tensors)
    for metadata in None, {'format': 'pt'}:
        library.save_file(tensors, file, metadata)
        assert_equal(pretrained.read_weights(tmp_path), tensors)
    library.save_file({}, file)
    assert pretrained.read_weights(tmp_path) == {}
    tensor_file.write(tmp_path / 'model.safetensors', {})
    assert library.load_file(file) == {}


# --- weights that are damaged, or mean harm

FINE = {'w': entry()}
EIGHT = bytes(8)


@pytest.mark.parametrize('header, content, message', [
    (FINE, bytes(7), 'w: expected data_offsets from 0 to at most 7, found 0 to 8'),
    (FINE, bytes(9), 'expected 8 bytes after the header, found 9'),
    ({'w': entry(begin=1, end=9)}, bytes(9), 'w: expected data_offsets from 0'),
    ({'a': entry(), 'w': entry(begin=4, end=12)}, bytes(12), 'w: expected data_offsets from 8'),
    ({'a': entry(), 'w': entry(begin=12, end=20)}, bytes(20), 'w: expected data_offsets from 8'),
    ({'a': entry(), 'w': entry()}, EIGHT, 'w: expected data_offsets from 8'),
    ({'w': entry(begin=-8, end=0)}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(begin=8, end=0)}, EIGHT, 'w: expected 8 bytes .*, found -8'),
    ({'w': entry(end=2**70)}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(end=8.0)}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(shape=[3])}, EIGHT, 'w: expected 12 bytes for F32 .3., found 8'),
    ({'w': entry(shape=[-2])}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(shape=[True, 2])}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(shape=['2'])}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(shape=[float('nan')])}, EIGHT, 'w: expected whole numbers'),
    ({'w': entry(shape=[2**40, 2**40])}, EIGHT, 'w: expected 4,8.* bytes'),
    ({'w': entry(dtype='F4')}, EIGHT, "w: expected a dtype of .*, found 'F4'"),
    ({'w': {**entry(), 'data_offsets': [0]}}, EIGHT, 'w: expected dtype, shape and two data_offsets'),
    ({'w': {**entry(), 'shape': 2}}, EIGHT, 'w: expected dtype, shape'),
    ({'w': {**entry(), 'dtype': ['F32']}}, EIGHT, 'w: expected dtype, shape'),
    ({'w': 7}, EIGHT, 'w: expected dtype, shape and two data_offsets, found 7'),
    ([1, 2], EIGHT, 'header: expected a JSON object, found list'),
    (b'{"w"', EIGHT, 'header: expected JSON'),
    (b'{"\xff": 1}', EIGHT, 'header: expected JSON'),
    (b'{"w": {"shape": [' + b'9' * 5000 + b']}}', EIGHT, 'header: expected JSON|w: expected dtype'),
    (b'{"w":' * 100_000, EIGHT, 'header: expected JSON'),
    (b'[' * 100_000 + b']' * 100_000, EIGHT, 'header: expected JSON'),
    (b'{"w": 1, "v": 2, "w": 3}', EIGHT, "header: expected JSON, found the name 'w' 2 times"),
    (b'{"w": {"dtype": "F32", "dtype": "F16"}}', EIGHT, "header: expected JSON, found the name 'dtype'")])
def test_a_damaged_file_is_named_with_its_tensor(tmp_path, header, content, message):
    file = tmp_path / 'model.safetensors'
    write_file(file, header, content)
    with pytest.raises(UserError, match=f'^{file}: {message}') as error:
        pretrained.read_weights(tmp_path)
    assert error.value.code == 2 and '\n' not in str(error.value)


@pytest.mark.parametrize('n_header', [0, 1, 61, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_header_that_cannot_be_is_an_error_before_it_is_read(tmp_path, n_header):
    file = tmp_path / 'model.safetensors'
    write_file(file, b'{}' + b' ' * 50, EIGHT, n_header)
    with pytest.raises(UserError, match=f'{file}: expected a header of .* a header of {n_header:,}$'):
        pretrained.read_weights(tmp_path)


def test_every_shorter_file_is_an_error(tmp_path):
    file = tmp_path / 'model.safetensors'
    tensor_file.write(file, {'w': torch.ones(3), 'v': torch.ones(2, dtype=torch.int8)})
    raw = file.read_bytes()
    for n in range(len(raw)):
        file.write_bytes(raw[:n])
        with pytest.raises(UserError, match=str(file)):
            pretrained.read_weights(tmp_path)


def test_a_file_with_flipped_bits_is_an_error_or_gives_tensors(tmp_path):
    file = tmp_path / 'model.safetensors'
    tensor_file.write(file, {'w': torch.ones(3), 'v': torch.ones(2, dtype=torch.int8)})
    raw = file.read_bytes()
    for n in range(0, 8 * len(raw), 3):
        file.write_bytes((int.from_bytes(raw, 'little') ^ 1 << n).to_bytes(len(raw), 'little'))
        try:
            found = pretrained.read_weights(tmp_path)
            assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
        except UserError as error:
            assert str(file) in str(error)


# --- several files

def sharded(folder):
    """Write two files and their index; return the index."""
    write_file(folder / 'one.safetensors', {'a': entry()}, EIGHT)
    write_file(folder / 'two.safetensors', {'b': entry((1,), 0, 4)}, bytes(4))
    return {'metadata': {'total_size': 12}, 'weight_map': {'a': 'one.safetensors', 'b': 'two.safetensors'}}


def write_index(folder, index):
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index), encoding='utf-8')


def test_several_files_are_read_through_their_index(tmp_path):
    write_index(tmp_path, sharded(tmp_path))
    found = pretrained.read_weights(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {'a': (2,), 'b': (1,)}


@pytest.mark.parametrize('name', ['../x', '/etc/passwd', 'a/../../x', 'sub/x', '..', '.', '', 7, None])
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path, name):
    (tmp_path / 'folder').mkdir()
    write_file(tmp_path / 'x', {'a': entry()}, EIGHT)
    index = sharded(tmp_path / 'folder')
    index['weight_map']['a'] = name
    write_index(tmp_path / 'folder', index)
    with pytest.raises(UserError, match='a: expected the name of a file beside it|Is a directory'):
        pretrained.read_weights(tmp_path / 'folder')


@pytest.mark.parametrize('change, message', [
    ({'c': 'one.safetensors'}, 'one.safetensors: c: expected here by .*index.json, found in no file'),
    ({'a': 'gone.safetensors'}, 'gone.safetensors: No such file'),
    ({'a': 'one\0.safetensors'}, 'embedded null')])
def test_a_tensor_or_file_that_the_index_promises_is_missing(tmp_path, change, message):
    index = sharded(tmp_path)
    index['weight_map'].update(change)
    write_index(tmp_path, index)
    with pytest.raises(UserError, match=message):
        pretrained.read_weights(tmp_path)


def test_a_tensor_in_two_files_is_an_error(tmp_path):
    write_index(tmp_path, sharded(tmp_path))
    write_file(tmp_path / 'two.safetensors', {'a': entry((1,), 0, 4), 'b': entry((1,), 4, 8)}, EIGHT)
    with pytest.raises(UserError, match='two.safetensors: a: expected in one file, found in two'):
        pretrained.read_weights(tmp_path)


@pytest.mark.parametrize('index', [{}, {'weight_map': ['a']}, [], 'x'])
def test_an_index_of_another_shape_is_an_error(tmp_path, index):
    write_index(tmp_path, index)
    with pytest.raises(UserError, match='index.json: expected'):
        pretrained.read_weights(tmp_path)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match='expected model.safetensors, .* or pytorch_model.bin, found none'):
        pretrained.read_weights(tmp_path)


# --- config.json, tokenizer.json

@pytest.mark.parametrize('text', [None, '', '{', '[]', '7', '{"a": 1, "a": 2}', '{"a":' * 100_000, '\udcff'])
def test_a_config_that_is_missing_or_no_object_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / 'config.json').write_bytes(text.encode('utf-8', errors='surrogateescape'))
    with pytest.raises(UserError, match=str(tmp_path / 'config.json')):
        pretrained.read_config(tmp_path)


def test_a_folder_comes_back(tmp_path):
    config = {'model_type': 't5', 'd_model': 4, 'name': 'é'}
    tokenizer = unigram.Unigram(spec({'▁a': -1.0}))
    pretrained.write(tmp_path / 'new' / 'one', config, {'w': torch.ones(2)}, tokenizer)
    assert pretrained.read_config(tmp_path / 'new' / 'one') == config
    assert pretrained.read_tokenizer(tmp_path / 'new' / 'one').json() == tokenizer.json()
    pretrained.write(tmp_path / 'two', config, {'w': torch.ones(2)})
    assert pretrained.read_tokenizer(tmp_path / 'two') is None


@pytest.mark.parametrize('change, message', [
    ({'model': {'type': 'WordPiece', 'vocab': {}}}, 'expected Unigram .* found WordPiece'),
    ({'model': {'type': 'BPE', 'vocab': {}, 'merges': []}}, 'expected a ByteLevel'),
    ({'model': {}}, 'not a whole tokenizer.json: KeyError'), ({'model': None}, 'not a whole'),
    ({'added_tokens': [7]}, 'not a whole'), ({'added_tokens': {'a': 1}}, 'not a whole'),
    ({'pre_tokenizer': None}, 'not a whole'), ({'normalizer': {'type': 'Nmt'}}, 'normalizer'),
    ({'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': []}}, 'tokenizer.json'),
    ({'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': [['a', 10**999]]}}, 'not a whole'),
    ({'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': [['a']]}}, 'tokenizer.json')])
def test_a_tokenizer_of_another_kind_or_a_damaged_one_is_an_error(tmp_path, change, message):
    (tmp_path / 'tokenizer.json').write_text(json.dumps({**spec({}), **change}), encoding='utf-8')
    with pytest.raises(UserError, match=message) as error:
        pretrained.read_tokenizer(tmp_path)
    assert str(error.value).startswith(str(tmp_path / 'tokenizer.json')) and error.value.code == 2
