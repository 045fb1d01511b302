"""samples/classes.py: grids, lines and images of your own, with small stand-ins for the models."""
import dataclasses
import json
import re
import shutil
import sys
import types
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import configurator
import data
from core.checkpoint import load_checkpoint, save_checkpoint
from samples import classes
from sampling import save_run
from test_grid import find, read_png

CLASSES = ['an apple', 'bee', 'ci$y', 'd_o_g']


# --- two small classifiers

@dataclasses.dataclass
class ImageConfig:
    n_class: int = 4
    channels: int = 3
    mean: tuple = (0.5, 0.5, 0.5)
    std: tuple = (0.25, 0.25, 0.25)
    tta: Literal['none', 'flip'] = 'none'


class ImageModel(nn.Module):
    """A linear map of the mean colours of an image's four quarters. The image may have any size."""
    makes = 'classes'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.fc = nn.Linear(4 * config.channels, config.n_class)

    def view_logits(self, image):
        mean = torch.tensor(self.config.mean).view(-1, 1, 1)
        std = torch.tensor(self.config.std).view(-1, 1, 1)
        x = (image / 255 - mean) / std
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))

    def logits(self, image):
        assert image.dtype == torch.uint8
        assert image.dim() == 4
        assert not torch.is_grad_enabled()
        logits = self.view_logits(image)
        if self.config.tta == 'flip' and not self.training:
            logits = (logits + self.view_logits(image.flip(3))) / 2
        return logits


@dataclasses.dataclass
class TextConfig:
    n_class: int = 4
    vocab_size: int = 11
    block_size: int = 9


class TextModel(nn.Module):
    """The mean of a text's embeddings."""
    makes = 'classes'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_class)

    def logits(self, text):
        not_padding = (text > 0).unsqueeze(2)
        return (self.embed(text) * not_padding).sum(1) / not_padding.sum(1)


MODELS = {'of_images': (ImageConfig, ImageModel), 'of_text': (TextConfig, TextModel)}


def install_models():
    """Called first in a child process: the classes above are files in models/."""
    for name, (config, model) in MODELS.items():
        module = types.ModuleType(f'models.{name}')
        module.Config = config
        module.Model = model
        sys.modules[f'models.{name}'] = module
    configurator.model_names = lambda: tuple(MODELS)


# --- a data set and a run of each

def save_images(path, C=3, H=8, W=8):
    """Write a data set of noise, each image around a color of its own. Return {split: {field: rows}}."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (('train', 5), ('val', 30), ('test', 70)):
        colors = rng.integers(0, 200, (n, C, 1, 1))
        noise = rng.integers(0, 56, (n, C, H, W))
        splits[split] = {'image': (colors + noise).astype(np.uint8), 'label': rng.integers(0, 4, n)}
    info = {'n_class': 4, 'classes': CLASSES, 'channels': C, 'size': [H, W], 'mean': [0.5] * C,
            'std': [0.25] * C}
    data.save(str(path), splits, info=info)
    return splits


def randomize(net):
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p)
    return net.eval()


@pytest.fixture
def trained(tmp_path):
    """(model, splits) of the data set in images/ and the checkpoint in run/."""
    splits = save_images(tmp_path / 'images')
    net = randomize(ImageModel(ImageConfig()))
    save_run(tmp_path / 'run', 'of_images', net, tmp_path / 'images')
    return net, splits


@pytest.fixture
def sampled(launch, tmp_path):
    """sampled('--name=value', ...): (exit code, text) of sample.py in tmp_path."""
    def sampled(*argv, out_dir='run'):
        return launch('sample.py', f'--out_dir={out_dir}', '--device=cpu', *argv, cwd=tmp_path,
                      env={'PATCH': 'test_samples_classes.install_models'})
    return sampled


@torch.no_grad()
def answers_of(logits_of_row, rows):
    """Return (true class, predicted class, probabilities) of each of `rows`, one at a time."""
    answers = []
    for i, true in enumerate(rows['label']):
        logits = logits_of_row(rows, i).double()
        probabilities = (logits - logits.max()).exp().numpy()
        probabilities /= probabilities.sum()
        answers.append((true, probabilities.argmax(), probabilities))
    return answers


def image_logits(net):
    return lambda rows, i: net.view_logits(torch.from_numpy(rows['image'][i:i + 1]))[0]


# --- lines

def check_lines(path, answers, names=CLASSES):
    """Compare a file of lines with `answers`; return how many are right."""
    lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    assert [line['row'] for line in lines] == list(range(len(answers)))
    for line, (true, predicted, probabilities) in zip(lines, answers):
        assert list(line) == ['row', 'true', 'predicted', 'true_name', 'predicted_name', 'probabilities']
        assert line['true'] == true
        assert line['predicted'] == predicted
        assert line['true_name'] == names[true]
        assert line['predicted_name'] == names[predicted]
        assert type(line['predicted']) is int
        assert line['probabilities'] == pytest.approx(probabilities.tolist(), abs=2e-6)
        assert all(round(p, 6) == p for p in line['probabilities'])
    return sum(true == predicted for true, predicted, _ in answers)


@pytest.mark.parametrize('split', ['', 'test', 'val', 'train'])
def test_lines_are_the_models_answers_for_every_row_in_order(trained, sampled, tmp_path, split):
    net, splits = trained
    argv = [f'--split={split}'] if split else []
    code, text = sampled('--out=x.jsonl', *argv)
    assert code == 0, text
    answers = answers_of(image_logits(net), splits[split or 'test'])
    n = len(answers)
    right = check_lines(tmp_path / 'x.jsonl', answers)
    assert text == (f'wrote x.jsonl\n{right} of {n} right in {split or "test"}, accuracy {right / n:.4f}; '
                    'test-time augmentation: none\n')


def test_lines_have_the_names_of_the_files_that_meta_json_has(trained, sampled, tmp_path):
    file = tmp_path / 'images/meta.json'
    meta = json.loads(file.read_text(encoding='utf-8'))
    names = [f'bee/é \udce9 {i}.png' for i in range(70)]        # not every file name is Unicode
    meta['source'] = [{'url': 'elsewhere'}, {'url': 'photos', 'files': {'train': [], 'test': names}}]
    file.write_text(json.dumps(meta), encoding='utf-8')
    for split, expected in ('test', names), ('val', [None] * 30):
        code, text = sampled('--out=x.jsonl', f'--split={split}')
        assert code == 0, text
        lines = (tmp_path / 'x.jsonl').read_text(encoding='utf-8').splitlines()
        assert [json.loads(line).get('file') for line in lines] == expected


def test_test_time_augmentation_is_applied_and_named(sampled, tmp_path):
    splits = save_images(tmp_path / 'images')
    net = randomize(ImageModel(ImageConfig(tta='flip')))
    save_run(tmp_path / 'run', 'of_images', net, tmp_path / 'images')
    code, text = sampled('--out=x.jsonl')
    assert code == 0
    assert text.endswith('test-time augmentation: flip\n')

    def with_mirrored(rows, i):
        image = torch.from_numpy(rows['image'][i:i + 1])
        return (net.view_logits(image) + net.view_logits(image.flip(3)))[0] / 2

    check_lines(tmp_path / 'x.jsonl', answers_of(with_mirrored, splits['test']))
    with pytest.raises(AssertionError):
        check_lines(tmp_path / 'x.jsonl', answers_of(image_logits(net), splits['test']))


def test_a_classifier_of_text_writes_lines_but_reads_no_images(sampled, tmp_path):
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 11, rng.integers(1, 15)) for _ in range(150)]
    rows = {'text': texts, 'label': rng.integers(0, 4, 150)}
    data.save(f'{tmp_path}/texts', {'train': rows, 'val': rows}, {'text': 'ragged'},
              {'n_class': 4, 'vocab_size': 11})
    net = randomize(TextModel(TextConfig()))
    save_run(tmp_path / 'run', 'of_text', net, tmp_path / 'texts')
    code, text = sampled('--out=x.jsonl')
    assert code == 0, text
    assert 'right in val' in text                           # there is no test split
    answers = answers_of(lambda rows, i: net.logits(torch.tensor(rows['text'][i][None, :9]))[0], rows)
    check_lines(tmp_path / 'x.jsonl', answers, '0123')
    for argv in (), ('--out=x.png',), ('--start=x.png',):
        code, text = sampled(*argv)
        assert code == 2
        assert 'does not read images' in text
        assert '--out=FILE.jsonl' in text


# --- grids

def test_a_caption_has_class_and_probability_and_a_mistake_also_the_true_class():
    images = np.zeros((3, 3, 8, 8), np.uint8)
    names = ['an apple', r'$\x$', 'a name much longer than an image is wide']
    probabilities = [[0.986, 0.01, 0.004], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]
    first, second, third = classes.make_captions(images, [0, 1, 2], [0, 0, 2], probabilities, names)
    assert first == ['an apple 99%']
    assert second == ['✗ an apple 50%', r'is $\x$']
    long, = third
    assert long.startswith('a name much')
    assert long.endswith('… 100%')
    assert len(long) < 30


def test_a_caption_of_a_small_image_keeps_some_letters_of_a_name():
    images = np.zeros((400, 3, 28, 28), np.uint8)
    captions = classes.make_captions(images, [0] * 400, [0] * 400, [[1.0]] * 400, ['airplane'])
    assert captions == [['ai… 100%']] * 400


def test_the_seed_decides_which_rows_are_in_the_grid(trained, sampled, tmp_path):
    net, splits = trained
    answers = answers_of(image_logits(net), splits['test'])
    grids = {}
    for seed, name in (1, 'a'), (1, 'b'), (2, 'c'):
        code, text = sampled(f'--seed={seed}', f'--out={name}.png', '--num_samples=9')
        assert code == 0, text
        canvas = read_png(tmp_path / f'{name}.png')
        shown = [i for i, image in enumerate(splits['test']['image']) if find(canvas, image)]
        assert len(shown) == 9
        right = sum(answers[i][0] == answers[i][1] for i in shown)
        assert 0 < right < 9
        assert text.startswith(f'wrote {name}.png\n{right} of 9 right in test, accuracy {right / 9:.4f}; ')
        grids[name] = (tmp_path / f'{name}.png').read_bytes()
    assert grids['a'] == grids['b']
    assert grids['a'] != grids['c']


@pytest.mark.parametrize('argv, n', [
    ((), 25), (('--split=train',), 5), (('--num_samples=64',), 64), (('--num_samples=400',), 70),
    (('--num_samples=1',), 1)])
def test_a_grid_is_written_beside_the_checkpoint_by_default(trained, sampled, tmp_path, argv, n):
    code, text = sampled(*argv)
    assert code == 0, text
    assert text.startswith('wrote run/samples.png\n')
    assert f' of {n} right in ' in text
    assert read_png(tmp_path / 'run' / 'samples.png').shape[0] > 200
    (tmp_path / 'elsewhere').mkdir()
    shutil.move(tmp_path / 'run/best.pt', tmp_path / 'elsewhere/mine.pt')
    code, text = sampled(*argv, out_dir='elsewhere/mine.pt')
    assert code == 0, text
    assert text.startswith('wrote elsewhere/samples.png\n')


# --- an image of your own

def parse(text):
    """Return the {class: probability} that was printed, below a line about the file."""
    return {line[:-6].strip(): float(line[-6:]) for line in text.splitlines()[1:]}


def probabilities_of(net, image):
    """Return the {class: probability} of an image (1, C, H, W)."""
    (_, _, probabilities), = answers_of(image_logits(net), {'image': image, 'label': [0]})
    return dict(zip(CLASSES, probabilities))


@pytest.mark.parametrize('mode, color, seen', [
    ('RGB', (200, 100, 50), (200, 100, 50)),
    ('L', 90, (90, 90, 90)),
    ('1', 1, (255, 255, 255)),
    ('RGBA', (200, 100, 50, 255), (200, 100, 50)),
    ('RGBA', (200, 100, 50, 0), (255, 255, 255)),
    ('LA', (90, 255), (90, 90, 90)),
    ('I;16', 257 * 90, (90, 90, 90))])
@pytest.mark.parametrize('size', [(8, 8), (20, 12), (5, 3)])
def test_an_image_of_any_mode_and_size_is_classified(trained, tmp_path, capsys, mode, color, seen, size):
    net, _ = trained
    Image.new(mode, size, color).save(tmp_path / 'x.png')
    classes.classify_file(net, tmp_path / 'x.png', [8, 8], CLASSES)
    text = capsys.readouterr().out
    cropped = '' if size == (8, 8) else ', the center of it'
    assert text.startswith(f'{tmp_path}/x.png: {size[0]} x {size[1]} {mode} -> 8 x 8 RGB{cropped}\n')
    plain = np.broadcast_to(np.array(seen, np.uint8)[:, None, None], (3, 8, 8))
    found = parse(text)
    assert found == pytest.approx(probabilities_of(net, plain[None].copy()), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_palette_and_a_cmyk_jpeg_are_read_as_colors(trained, sampled, tmp_path):
    net, splits = trained
    pil_image = Image.fromarray(splits['test']['image'][3].transpose(1, 2, 0)).quantize(4)
    pil_image.save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0, text
    assert ' 8 x 8 P -> 8 x 8 RGB\n' in text
    image = np.asarray(pil_image.convert('RGB')).transpose(2, 0, 1)
    assert parse(text) == pytest.approx(probabilities_of(net, image[None].copy()), abs=1e-4)
    pil_image.convert('CMYK').save(tmp_path / 'x.jpg')
    code, text = sampled('--start=x.jpg')
    assert code == 0, text
    assert ' 8 x 8 CMYK -> 8 x 8 RGB\n' in text


def test_an_image_is_resized_as_the_data_set_was(trained, sampled, tmp_path):
    from data.images import load_rgb, resize_and_center_crop
    net, _ = trained
    shutil.rmtree(tmp_path / 'images')                          # the checkpoint is enough
    noise = np.random.default_rng(0).integers(0, 256, (33, 50, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / 'my image.png')
    image = resize_and_center_crop(load_rgb(tmp_path / 'my image.png'), (8, 8))
    _, text = sampled('--start=my image.png')
    assert parse(text) == pytest.approx(probabilities_of(net, image[None]), abs=1e-4)


def test_a_model_of_grey_images_gets_a_grey_image(sampled, tmp_path):
    save_images(tmp_path / 'images', 1, 10, 6)
    net = randomize(ImageModel(ImageConfig(channels=1, mean=(0.5,), std=(0.25,))))
    save_run(tmp_path / 'run', 'of_images', net, tmp_path / 'images')
    Image.new('RGB', (30, 40), (255, 0, 0)).save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0, text
    assert text.startswith('x.png: 30 x 40 RGB -> 6 x 10 L, the center of it\n')
    grey = round(0.299 * 255)
    expected = probabilities_of(net, np.full((1, 1, 10, 6), grey, np.uint8))
    assert parse(text) == pytest.approx(expected, abs=1e-4)
    code, text = sampled('--num_samples=4')
    assert code == 0, text
    assert ' of 4 right in test' in text


def test_without_info_classes_are_numbers_and_an_image_keeps_its_size(trained, sampled, tmp_path):
    net, _ = trained
    save_run(tmp_path / 'run', 'of_images', net, tmp_path / 'images', info={})
    Image.new('RGB', (30, 40), 'gray').save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0, text
    assert text.startswith('x.png: 30 x 40 RGB -> 30 x 40 RGB\n')
    assert set(parse(text)) == set('0123')


@pytest.mark.parametrize('gray, word', [(20, 'darker'), (100, ''), (230, 'brighter')])
def test_an_image_unlike_the_training_is_told_and_can_be_inverted(trained, sampled, tmp_path, gray, word):
    net, _ = trained
    Image.new('L', (9, 9), gray).save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0, text
    hint = f'x.png: much {word} than the images of the training, mean {gray / 255:.2f}, theirs 0.50'
    assert (hint in text) == ('--invert' in text) == (word != '')
    code, text = sampled('--start=x.png', '--invert')
    assert '--invert' not in text
    lines = [line for line in text.splitlines() if 'much' not in line]
    image = np.full((1, 3, 8, 8), 255 - gray, np.uint8)
    assert parse('\n'.join(lines)) == pytest.approx(probabilities_of(net, image), abs=1e-4)


@pytest.mark.parametrize('given', ['photos', 'photos/*.*', 'photos/*[12]*'])
def test_all_images_of_a_folder_or_pattern_are_classified(trained, sampled, tmp_path, given):
    net, splits = trained
    (tmp_path / 'photos/deep').mkdir(parents=True)
    expected = ''
    for i in 1, 2:
        image = splits['test']['image'][i]
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f'photos/{i}.png')
        expected += f'photos/{i}.png: 8 x 8 RGB -> 8 x 8 RGB\n'
        probabilities = probabilities_of(net, image[None])
        for name in sorted(CLASSES, key=lambda name: -probabilities[name]):
            expected += f'{name.ljust(8)}  {probabilities[name]:.4f}\n'
    (tmp_path / 'photos/1 note.txt').write_text('no image', encoding='utf-8')
    code, text = sampled(f'--start={given}')
    assert code == 0, text
    assert text.startswith(expected)
    assert '--start=photos/1 note.txt: cannot identify' in text


@pytest.mark.parametrize('given, message', [
    ('photos', 'none of these 2 files is an image'), ('empty', '--start=empty: there are no files in this'),
    ('photos/*.jpg', r'--start=photos/\*.jpg: No such file or directory')])
def test_if_no_file_is_an_image_it_is_an_error(trained, sampled, tmp_path, given, message):
    for folder in 'photos', 'empty':
        (tmp_path / folder).mkdir()
    for name in 'a', 'b':
        (tmp_path / f'photos/{name}.txt').write_text('no image', encoding='utf-8')
    code, text = sampled(f'--start={given}')
    assert code == 3
    assert re.search(message, text) and 'Traceback' not in text


def test_a_file_with_a_star_in_its_name_is_that_file(trained, sampled, tmp_path):
    for name in 'a*.png', 'ab.png':
        Image.new('L', (9, 9), 128).save(tmp_path / name)
    code, text = sampled('--start=a*.png')
    assert code == 0
    assert text.startswith('a*.png: 9 x 9') and 'ab.png' not in text


# --- mistakes

@pytest.mark.parametrize('damage, message', [
    (None, '--start=x.png: No such file'),
    (lambda raw: b'', '--start=x.png: cannot identify'),
    (lambda raw: b'not an image', 'cannot identify'),
    (lambda raw: raw[:-30], 'truncated'),
    (lambda raw: raw[:20] + b'\xff' * 9 + raw[29:], '--start=x.png: ')])
def test_a_file_that_is_not_an_image_is_an_error_of_one_line(trained, sampled, tmp_path, damage, message):
    if damage:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / 'whole.png')
        (tmp_path / 'x.png').write_bytes(damage((tmp_path / 'whole.png').read_bytes()))
    code, text = sampled('--start=x.png')
    assert code == 3
    assert message in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize('argv, code, message', [
    (['--out=x.bmp'], 2, "out must end in .png or in .jsonl, got 'x.bmp'"),
    (['--out=x'], 2, '.jsonl'),
    (['--out=no/x.png'], 2, 'out no/x.png: there is no such folder'),
    (['--out=folder.png'], 2, 'out folder.png is a folder'),
    (['--out=folder.jsonl'], 2, 'out folder.jsonl is a folder'),
    (['--invert'], 2, 'invert: only for an image of your own'),
    (['--split=tets'], 2, "split 'tets': "),
    (['--split=tets'], 2, ' has train, val, test'),
    (['--start=x.png', '--out=y.png'], 2, 'out: only for rows of the data set'),
    (['--start=x.png', '--split=val'], 2, 'split: only for rows of the data set'),
    (['--start=x.png', '--num_samples=2'], 2, 'num_samples: only for rows of the data set'),
    (['--num_samples=401'], 2, 'num_samples must be from 0 to 400, got 401'),
    (['--temperature=1', '--top_k=3'], 2, 'temperature is not an option')])
def test_a_mistake_is_an_error_and_nothing_is_written(trained, sampled, tmp_path, argv, code, message):
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'folder.jsonl').mkdir()
    before = sorted(tmp_path.rglob('*'))
    found, text = sampled(*argv)
    assert found == code, text
    assert message in text
    assert 'Traceback' not in text
    assert [path for path in sorted(tmp_path.rglob('*')) if not path.name.startswith('output')] == before


@pytest.mark.parametrize('argv', [(), ('--out=x.jsonl',)])
def test_a_missing_data_set_is_an_error_that_says_how_to_make_it(trained, sampled, tmp_path, argv):
    shutil.move(tmp_path / 'images', tmp_path / 'moved')
    code, text = sampled(*argv)
    assert code == 3
    assert str(tmp_path / 'images') in text
    assert '--start=FILE' in text
    assert 'python' not in text                                 # it has no prepare.py
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/prepare.py').write_text('', encoding='utf-8')
    state = load_checkpoint(tmp_path / 'run/best.pt')
    state['keys']['prepare'] = '--size=8'
    save_checkpoint(tmp_path / 'run/best.pt', state)
    code, text = sampled(*argv)
    assert code == 3
    assert f'python {tmp_path}/images/prepare.py --size=8\n' in text
    assert 'Traceback' not in text
    assert not (tmp_path / 'x.jsonl').exists()


def test_data_other_than_those_of_the_training_are_an_error(trained, sampled, tmp_path):
    _, splits = trained
    splits['val']['label'] = (splits['val']['label'] + 1) % 4
    splits['train'] = splits['val']
    info = data.check(tmp_path / 'images')['info']
    data.save(f'{tmp_path}/images', splits, info=info)
    code, text = sampled('--split=val')
    assert code == 3, text
    assert 'is not what the model was trained on: label of val changed since' in text
    assert not (tmp_path / 'run/samples.png').exists()
    code, text = sampled('--split=test')        # of which every byte is as it was
    assert code == 0, text
