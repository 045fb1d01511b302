"""What sample.py makes of classifiers: grids, lines and pictures of one's own, with stand-ins for models."""
import dataclasses, json, shutil, sys, types
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import configurator, data, run, sample

CLASSES = ['an apple', 'bee', 'ci$y', 'd_o_g']


# --- two small classifiers

@dataclasses.dataclass
class Seen:
    n_class: int = 4
    channels: int = 3
    mean: tuple = (0.5, 0.5, 0.5)
    std: tuple = (0.25, 0.25, 0.25)
    tta: Literal['none', 'flip'] = 'none'


class Eye(nn.Module):
    """A linear look at the four quarters of a picture of any size."""
    monitor = 'accuracy', 'max'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.fc = nn.Linear(4 * config.channels, config.n_class)

    def look(self, image):
        mean, std = (torch.tensor(x, device=image.device).view(-1, 1, 1)
                     for x in (self.config.mean, self.config.std))
        return self.fc(F.adaptive_avg_pool2d((image / 255 - mean) / std, 2).flatten(1))

    def logits(self, image):
        assert image.dtype == torch.uint8 and image.dim() == 4 and not torch.is_grad_enabled()
        both = self.config.tta == 'flip' and not self.training
        return (self.look(image) + self.look(image.flip(3))) / 2 if both else self.look(image)


@dataclasses.dataclass
class Read:
    n_class: int = 4
    vocab_size: int = 11
    block_size: int = 9


class Reader(nn.Module):
    """The mean of a text's embeddings."""
    monitor = 'accuracy', 'max'

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.n_class)

    def logits(self, text):
        real = (text > 0).unsqueeze(2)
        return (self.embed(text) * real).sum(1) / real.sum(1)


class Mute(nn.Module):
    """It can nothing that sample.py asks for."""

    def __init__(self, config):
        super().__init__()
        self.config, self.fc = config, nn.Linear(1, 1)


STANDINS = {'eye': (Seen, Eye), 'reader': (Read, Reader), 'mute': (Seen, Mute)}


def install():
    """Patched into a child: the stand-ins are files in models/."""
    for name, (config, model) in STANDINS.items():
        module = types.ModuleType(f'models.{name}')
        module.Config, module.Model = config, model
        sys.modules[f'models.{name}'] = module
    configurator.models = lambda: tuple(STANDINS)


# --- a data set and a run of each

SIZES = {'train': 5, 'val': 30, 'test': 70}


def checkpoint(folder, name, dataset='', net=None, **changes):
    """An untrained stand-in's run folder."""
    config, model = STANDINS[name]
    torch.manual_seed(0)
    net = net or model(config())
    for p in net.parameters():
        nn.init.normal_(p)
    meta = data.check(dataset)
    state = {'format': run.FORMAT, 'step': 7, 'tokenizer': None, 'model': net.state_dict(),
             'keys': {'model': name, 'dataset': str(dataset), 'prepare': ''}, 'info': meta['info'],
             'config': dataclasses.asdict(net.config), 'data': data.hashes(meta)}
    folder.mkdir(parents=True, exist_ok=True)
    run.write(folder / 'best.pt', state | changes)
    return net.eval()


def paint(path, C=3, H=8, W=8, splits=SIZES):
    """A data set of noise, of a colour each."""
    rng = np.random.default_rng(0)
    made = {split: {'image': (rng.integers(0, 200, (n, C, 1, 1))
                              + rng.integers(0, 56, (n, C, H, W))).astype('u1'),
                    'label': rng.integers(0, 4, n)} for split, n in splits.items()}
    data.save(str(path), made, info={'n_class': 4, 'classes': CLASSES, 'channels': C, 'size': [H, W],
                                     'mean': [0.5] * C, 'std': [0.25] * C})
    return made


@pytest.fixture
def eye(tmp_path):
    """(model, {split: {field: rows}}); the data set is in pictures/, the run in run/."""
    made = paint(tmp_path / 'pictures')
    return checkpoint(tmp_path / 'run', 'eye', tmp_path / 'pictures'), made


@pytest.fixture
def sampled(launch, tmp_path):
    """sampled('--key=value', ...): (exit code, text) of sample.py, in tmp_path, on run/."""
    def sampled(*argv, out_dir='run'):
        return launch('sample.py', f'--out_dir={out_dir}', '--device=cpu', *argv, cwd=tmp_path,
                      env={'PATCH': 'test_classify.install'})
    return sampled


@torch.no_grad()
def expected(look, rows):
    """(true, predicted, probabilities) of each of `rows`, fields by name, looked at one by one."""
    result = []
    for i, t in enumerate(rows['label']):
        logits = look(rows, i)
        weights = np.exp(logits.double().numpy() - logits.max().item())
        result.append((t, weights.argmax(), weights / weights.sum()))
    return result


def look(net):
    return lambda rows, i: net.look(torch.from_numpy(rows['image'][i:i + 1]))[0]


# --- lines

def check_lines(path, answers):
    lines = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
    assert [line['row'] for line in lines] == [*range(len(answers))]
    for line, (t, p, shares) in zip(lines, answers):
        assert list(line) == ['row', 'true', 'predicted', 'probabilities']
        assert (line['true'], line['predicted']) == (t, p) and type(line['predicted']) is int
        assert line['probabilities'] == pytest.approx(shares.tolist(), abs=2e-6)
        assert all(round(share, 6) == share for share in line['probabilities'])
    return sum(t == p for t, p, _ in answers)


@pytest.mark.parametrize('split', ['', 'test', 'val', 'train'])
def test_lines_are_the_model_applied_by_hand_to_every_row_in_order(eye, sampled, tmp_path, split):
    net, made = eye
    code, text = sampled('--out=x.jsonl', *[f'--split={split}'] * bool(split))
    assert code == 0, text
    answers = expected(look(net), made[split or 'test'])
    right, n = check_lines(tmp_path / 'x.jsonl', answers), len(answers)
    assert text == (f'wrote x.jsonl\n{right} of {n} right in {split or "test"}, accuracy {right / n:.4f}; '
                    'test-time augmentation: none\n')


def test_the_mirror_image_is_averaged_and_said(sampled, tmp_path):
    made = paint(tmp_path / 'pictures')
    net = checkpoint(tmp_path / 'run', 'eye', tmp_path / 'pictures', Eye(Seen(tta='flip')))
    code, text = sampled('--out=x.jsonl')
    assert code == 0 and text.endswith('test-time augmentation: flip\n'), text

    def both(rows, i):
        return sum(net.look(torch.from_numpy(rows['image'][i:i + 1, :, :, ::way].copy()))[0]
                   for way in (1, -1)) / 2
    check_lines(tmp_path / 'x.jsonl', expected(both, made['test']))
    with pytest.raises(AssertionError):
        check_lines(tmp_path / 'x.jsonl', expected(look(net), made['test']))


def test_a_classifier_of_text_has_lines_too(sampled, tmp_path):
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 11, rng.integers(1, 15)) for _ in range(150)]
    rows = {'text': texts, 'label': rng.integers(0, 4, 150)}
    data.save(f'{tmp_path}/texts', {'train': rows, 'val': rows}, {'text': 'ragged'},
              {'n_class': 4, 'vocab_size': 11})
    net = checkpoint(tmp_path / 'run', 'reader', tmp_path / 'texts')
    code, text = sampled('--out=x.jsonl')
    assert code == 0 and 'right in val' in text, text
    check_lines(tmp_path / 'x.jsonl',
                expected(lambda rows, i: net.logits(torch.tensor(rows['text'][i][None, :9]))[0], rows))
    for argument in (), ('--out=x.png',), ('--start=x.png',):
        code, text = sampled(*argument)
        assert code == 2 and 'reads no pictures' in text and '--out=FILE.jsonl' in text


# --- grids

def pixels(path):
    return np.asarray(Image.open(path).convert('RGB'))


def found(canvas, picture):
    """Where in a canvas a picture stands, to the pixel: its (y, x) and size, enlarged by a whole number to a
    width of 160 pixels or the next that fits."""
    scale = -(-160 // picture.shape[2])
    block = np.kron(picture.transpose(1, 2, 0), np.ones((scale, scale, 1), np.uint8))
    H, W = block.shape[:2]
    first, last = ((canvas[:-H, :-W] == block[0, 0]).all(2),
                   (canvas[H - 1:-1, W - 1:-1] == block[-1, -1]).all(2))
    for y, x in np.argwhere(first & last):
        if (canvas[y:y + H, x:x + W] == block).all():
            return y, x, H, W


@pytest.mark.parametrize('C, H, W', [(3, 8, 8), (1, 28, 28), (3, 12, 9), (4, 8, 8)])
def test_a_grid_shows_every_pixel_and_frames_the_mistakes(tmp_path, C, H, W):
    images = np.random.default_rng(0).integers(0, 256, (7, C, H, W)).astype('u1')
    true, predicted = [0, 1, 2, 3, 0, 1, 2], [0, 1, 3, 3, 0, 0, 2]
    captions = sample.verdicts(images, true, predicted, [0.5] * 7, CLASSES)
    sample.tiles(images, captions, 'title', tmp_path / 'x.png')
    canvas, places = pixels(tmp_path / 'x.png'), []
    for image, t, p in zip(images, true, predicted):
        y, x, h, w = found(canvas, image[:3] if C > 1 else image.repeat(3, 0))
        around = np.concatenate([canvas[y - 3, x:x + w], canvas[y + h + 2, x:x + w], canvas[y:y + h, x - 3],
                                 canvas[y:y + h, x + w + 2]])
        assert (around == (255 if t == p else sample.MISTAKE)).all()
        below = canvas[y + h + 6:y + h + 46, x:x + w]
        assert (below < 128).any()                              # its class
        assert (below[20:] < 250).any() == (t != p)             # what it is, in words
        places.append((y, x))
    assert places == sorted(places) and len({y for y, _ in places}) == 3       # 3 x 3, in the order of rows


def test_a_caption_tells_class_and_probability_and_a_mistake_what_it_is(tmp_path, monkeypatch):
    from matplotlib.figure import Figure
    words, text = [], Figure.text

    def listen(self, x, y, s, **style):
        words.append(s)
        return text(self, x, y, s, **style)
    monkeypatch.setattr(Figure, 'text', listen)
    names = ['an apple', r'$\x$', 'a name much longer than a picture is wide']
    images = np.zeros((3, 3, 8, 8), np.uint8)
    captions = sample.verdicts(images, [0, 1, 2], [0, 0, 2], [0.986, 0.5, 1.0], names)
    sample.tiles(images, captions, 'the title', tmp_path / 'x.png')
    long = next(word for word in words if '…' in word)
    assert long.startswith('a name much') and long.endswith('… 100%') and len(long) < 30
    assert words == ['the title', 'an apple 99%', '✗ an apple 50%', r'is $\x$', long]


def test_a_grid_is_of_rows_of_the_split_and_a_seed_decides_which(eye, sampled, tmp_path):
    net, made = eye
    answers, grids = expected(look(net), made['test']), {}
    for seed, out in ((1, 'a'), (1, 'b'), (2, 'c')):
        code, text = sampled(f'--seed={seed}', f'--out={out}.png', '--num_samples=9')
        canvas = pixels(tmp_path / f'{out}.png')
        shown = [i for i, image in enumerate(made['test']['image']) if found(canvas, image)]
        right = sum(answers[i][0] == answers[i][1] for i in shown)
        assert code == 0 and len(shown) == 9 and 0 < right < 9
        assert text.startswith(
            f'wrote {out}.png\n{right} of 9 right in test, accuracy {right / 9:.4f}; '), text
        grids[out] = (tmp_path / f'{out}.png').read_bytes()
    assert grids['a'] == grids['b'] != grids['c']               # to the bit


@pytest.mark.parametrize('argv, n', [((), 25), (('--split=train',), 5), (('--num_samples=64',), 64),
                                     (('--num_samples=400',), 70), (('--num_samples=1',), 1)])
def test_a_grid_stands_beside_the_model_unless_told_otherwise(eye, sampled, tmp_path, argv, n):
    code, text = sampled(*argv)
    assert code == 0 and text.startswith('wrote run/samples.png\n') and f' of {n} right in ' in text, text
    assert pixels(tmp_path / 'run' / 'samples.png').shape[0] > 200
    (tmp_path / 'elsewhere').mkdir()
    shutil.move(tmp_path / 'run/best.pt', tmp_path / 'elsewhere/mine.pt')
    code, text = sampled(*argv, out_dir='elsewhere/mine.pt')
    assert code == 0 and text.startswith('wrote elsewhere/samples.png\n'), text


# --- a picture of one's own

def told(text):
    """{class: probability} that was printed."""
    return {line[:-6].strip(): float(line[-6:]) for line in text.splitlines()[1:]}


@pytest.mark.parametrize('mode, colour, seen', [
    ('RGB', (200, 100, 50), (200, 100, 50)), ('L', 90, (90, 90, 90)), ('1', 1, (255, 255, 255)),
    ('RGBA', (200, 100, 50, 255), (200, 100, 50)), ('RGBA', (200, 100, 50, 0), (255, 255, 255)),
    ('LA', (90, 255), (90, 90, 90)), ('I;16', 257 * 90, (90, 90, 90))])
@pytest.mark.parametrize('size', [(8, 8), (20, 12), (5, 3)])
def test_a_picture_of_any_mode_and_size_is_what_it_looks_like(eye, tmp_path, capsys,
                                                              mode, colour, seen, size):
    net, _ = eye
    Image.new(mode, size, colour).save(tmp_path / 'x.png')
    sample.recognise(net, tmp_path / 'x.png', [8, 8], CLASSES)
    text, middle = capsys.readouterr().out, '' if size == (8, 8) else ', the middle of it'
    assert text.startswith(f'{tmp_path}/x.png: {size[0]} x {size[1]} {mode} -> 8 x 8 RGB{middle}\n')
    plain = np.broadcast_to(np.array(seen, np.uint8)[:, None, None], (3, 8, 8))[None]
    (_, _, shares), = expected(look(net), {'image': plain.copy(), 'label': [0]})
    assert told(text) == pytest.approx(dict(zip(CLASSES, shares)), abs=1e-4)
    assert list(told(text).values()) == sorted(told(text).values(), reverse=True)


def test_a_palette_and_a_jpeg_are_read_as_colours(eye, sampled, tmp_path):
    net, made = eye
    picture = Image.fromarray(made['test']['image'][3].transpose(1, 2, 0)).quantize(4)
    picture.save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0 and ' 8 x 8 P -> 8 x 8 RGB\n' in text, text
    image = np.asarray(picture.convert('RGB')).transpose(2, 0, 1)[None].copy()
    (_, _, shares), = expected(look(net), {'image': image, 'label': [0]})
    assert told(text) == pytest.approx(dict(zip(CLASSES, shares)), abs=1e-4)
    picture.convert('CMYK').save(tmp_path / 'x.jpg')
    code, text = sampled('--start=x.jpg')
    assert code == 0 and ' 8 x 8 CMYK -> 8 x 8 RGB\n' in text, text


def test_a_picture_is_made_smaller_as_the_data_set_was(eye, sampled, tmp_path):
    from data import picture
    net, _ = eye
    shutil.rmtree(tmp_path / 'pictures')                        # the checkpoint is enough
    noise = np.random.default_rng(0).integers(0, 256, (33, 50, 3)).astype('u1')
    Image.fromarray(noise).save(tmp_path / 'my picture.png')
    image, *_ = picture.read([tmp_path / 'my picture.png'], 8)
    (_, _, shares), = expected(look(net), {'image': image, 'label': [0]})
    assert told(sampled('--start=my picture.png')[1]) == pytest.approx(dict(zip(CLASSES, shares)), abs=1e-4)


def test_a_model_of_grey_pictures_sees_grey(sampled, tmp_path):
    paint(tmp_path / 'pictures', 1, 10, 6)
    net = checkpoint(tmp_path / 'run', 'eye', tmp_path / 'pictures', Eye(Seen(4, 1, (0.5,), (0.25,))))
    Image.new('RGB', (30, 40), (90, 90, 90)).save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert code == 0 and text.startswith('x.png: 30 x 40 RGB -> 6 x 10 L, the middle of it\n'), text
    (_, _, shares), = expected(look(net), {'image': np.full((1, 1, 10, 6), 90, 'u1'), 'label': [0]})
    assert told(text) == pytest.approx(dict(zip(CLASSES, shares)), abs=1e-4)
    code, text = sampled('--num_samples=4')
    assert code == 0 and ' of 4 right in test' in text, text


def test_classes_without_names_are_numbers_and_a_picture_without_a_size_keeps_its_own(eye, sampled, tmp_path):
    checkpoint(tmp_path / 'run', 'eye', tmp_path / 'pictures', info={})
    Image.new('RGB', (30, 40)).save(tmp_path / 'x.png')
    code, text = sampled('--start=x.png')
    assert (code == 0 and text.startswith('x.png: 30 x 40 RGB -> 30 x 40 RGB\n')
            and set(told(text)) == set('0123'))


@pytest.mark.parametrize('content, message', [
    (None, '--start=x.png: No such file'), (b'', '--start=x.png: cannot identify'),
    (b'no picture', 'cannot identify'), (lambda whole: whole[:-30], 'truncated'),
    (lambda whole: whole[:20] + b'\xff' * 9 + whole[29:], '--start=x.png: ')])
def test_a_file_that_is_no_picture_is_refused_in_a_line(eye, sampled, tmp_path, content, message):
    if callable(content):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype('u1')).save(
            tmp_path / 'y.png')
        content = content((tmp_path / 'y.png').read_bytes())
    if content is not None:
        (tmp_path / 'x.png').write_bytes(content)
    code, text = sampled('--start=x.png')
    assert code == 3 and message in text and len(text.splitlines()) == 1, text


# --- what is refused

@pytest.mark.parametrize('argv, code, message', [
    (['--out=x.bmp'], 2, "out must end in .png or in .jsonl, got 'x.bmp'"),
    (['--out=x'], 2, '.jsonl'),
    (['--out=no/x.png'], 2, 'out no/x.png: there is no such folder'),
    (['--out=folder.png'], 4, '--out=folder.png cannot be written: '),
    (['--out=folder.jsonl'], 4, '--out=folder.jsonl cannot be written: '),
    (['--split=tets'], 2, "split 'tets': "), (['--split=tets'], 2, ' has train, val, test'),
    (['--start=x.png', '--out=y.png'], 2, 'out is for rows'),
    (['--start=x.png', '--split=val'], 2, 'split and bleu are for rows'),
    (['--num_samples=401'], 2, 'num_samples must be from 0 to 400 in a grid, got 401'),
    (['--start=x.png', '--num_samples=2'], 2, 'num_samples: of no use to a picture of your own'),
    (['--temperature=1', '--top_k=3'], 2, 'temperature, top_k: of no use to run, which makes classes')])
def test_what_cannot_be_is_refused_in_words(eye, sampled, tmp_path, argv, code, message):
    (tmp_path / 'folder.png').mkdir(), (tmp_path / 'folder.jsonl').mkdir()
    before = sorted(tmp_path.rglob('*'))
    found, text = sampled(*argv)
    assert found == code and message in text and 'Traceback' not in text, text
    assert [path for path in sorted(tmp_path.rglob('*')) if path.name[:6] != 'output'] == before


def test_a_model_that_makes_nothing_known_is_refused(eye, sampled, tmp_path):
    checkpoint(tmp_path / 'run', 'mute', tmp_path / 'pictures')
    code, text = sampled()
    assert code == 2 and text == 'run makes neither text, translations, classes, masks nor images\n'


@pytest.mark.parametrize('argv', [(), ('--out=x.jsonl',)])
def test_a_data_set_that_is_not_here_is_named_with_the_way_to_it(eye, sampled, tmp_path, argv):
    shutil.move(tmp_path / 'pictures', tmp_path / 'moved')
    code, text = sampled(*argv)
    assert (code == 3 and str(tmp_path / 'pictures') in text
            and '--start=FILE' in text and 'python' not in text)
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures/prepare.py').write_text('', encoding='utf-8')
    state = run.read(tmp_path / 'run/best.pt')
    state['keys']['prepare'] = '--size=8'
    run.write(tmp_path / 'run/best.pt', state)
    code, text = sampled(*argv)
    assert code == 3 and f'python {tmp_path}/pictures/prepare.py --size=8\n' in text
    assert 'Traceback' not in text and not (tmp_path / 'x.jsonl').exists()


def test_other_data_than_it_was_trained_on_are_refused(eye, sampled, tmp_path):
    _, made = eye
    made['val']['label'] = (made['val']['label'] + 1) % 4
    made['train'] = made['val']
    info = data.check(tmp_path / 'pictures')['info']
    data.save(f'{tmp_path}/pictures', made, info=info)
    code, text = sampled('--split=val')
    assert code == 3 and 'is not what run was trained on: label of val changed since' in text, text
    assert 'Traceback' not in text and not (tmp_path / 'run/samples.png').exists()
    code, text = sampled('--split=test')        # of which every byte is as it was
    assert code == 0, text


def test_a_preview_of_a_classifier_is_none_and_leaves_it_in_training(eye):
    net, _ = eye
    assert sample.preview(net.train(), {'tokenizer': None}, None) == '' and net.training
