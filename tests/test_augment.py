"""Augmentation against a loop over pictures in numpy, what it is drawn from, and runs on pictures."""
import functools, shutil

import numpy as np
import pytest
import torch
from torch import nn

import data, run
from configurator import Refused
from conftest import TINY, events, losses
from data.augment import DRAWN, Augment

MEAN = [0.2, 0.4, 0.8]      # times 255 these are whole numbers
KINDS = {'flip': Augment('random', 0, 0), 'alternating': Augment('alternating', 0, 0),
         'shift': Augment('none', 3, 0), 'as far as can be': Augment('none', 6, 0),
         'cutout': Augment('none', 0, 4), 'odd cutout': Augment('none', 0, 5),
         'cutout of all': Augment('none', 0, 99), 'zoom': Augment('none', 0, 0, zoom=0.5),
         'far': Augment('random', 1, 0, zoom=3), 'jitter': Augment('none', 0, 0, jitter=0.4),
         'any light': Augment('none', 0, 0, jitter=1), 'everything': Augment('random', 2, 3, 0.3, 0.2)}


def pictures(path, splits={'train': 40, 'val': 10, 'test': 11}, H=12, W=12, dtype=np.uint8):
    """A data set of noise whose masks are the first of three channels: {split: {field: rows}}."""
    rng, made = np.random.default_rng(0), {}
    for split, n in splits.items():
        image = rng.integers(0, 256, (n, 3, H, W)).astype(dtype)
        made[split] = {'image': image, 'mask': image[:, :1], 'label': np.arange(n) % 4}
    info = {'n_class': 4, 'channels': 3, 'size': [H, W], 'mean': MEAN, 'std': [0.25] * 3}
    data.save(str(path), made, info=info)
    return made


def opened(path, augment=None, fields=('image', 'mask', 'label')):
    return data.Split(str(path), 'train', list(fields), augment=augment)


# --- what is done to a picture

def moved(image, flip, shift, zoom, smooth):
    """One picture (C, H, W), mirrored if `flip`, `zoom` times as large, moved down and right by `shift`. Of
    each pixel: what is nearest to where it came from or, if `smooth`, between the four that are. All around
    the picture are its reflections."""
    _, H, W = image.shape
    image = np.flip(image, 2) if flip else image
    around = np.pad(image, ((0, 0), (4 * H, 4 * H), (4 * W, 4 * W)), mode='reflect')
    made = np.empty(image.shape)
    for i in range(H):
        for j in range(W):
            y, x = ((at - shift - (n - 1) / 2) / zoom + (n - 1) / 2 + 4 * n
                    for at, shift, n in ((i, shift[0], H), (j, shift[1], W)))
            if not smooth:
                y, x = round(y), round(x)
            top, left = int(np.floor(y)), int(np.floor(x))
            y, x, corners = y - top, x - left, around[:, top:top + 2, left:left + 2].astype(float)
            made[:, i, j] = np.einsum('cyx,y,x->c', corners, [1 - y, y], [1 - x, x])
    return made


def jittered(image, brightness, contrast, saturation):
    """One picture (3, H, W) in another light."""
    image = image * brightness
    image = image.mean() + (image - image.mean()) * contrast
    grey = image.mean(0)
    return np.clip(grey + (image - grey) * saturation, 0, 255)


def cut_out(image, centre, side):
    """One picture (C, H, W) with a square of the mean colour."""
    (_, H, W), image = image.shape, image.copy()
    top, left = int(centre[0] * H) - side // 2, int(centre[1] * W) - side // 2
    for y in range(H):
        for x in range(W):
            if top <= y < top + side and left <= x < left + side:
                image[:, y, x] = np.multiply(MEAN, 255).round()
    return image


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('name', KINDS)
def test_a_batch_is_the_loop_over_its_pictures_and_masks_move_along(tmp_path, name, dtype):
    augment, made = KINDS[name], pictures(tmp_path / 'x', {'train': 64}, 9, 7, dtype)['train']
    split = opened(tmp_path / 'x', augment)
    for step in 0, 1, 3:
        rows = split.rows(step, 32, seed=5)
        batch, changed = split.batch(rows), 0
        assert batch['image'].shape == (32, 3, 9, 7) and batch['mask'].shape == (32, 1, 9, 7)
        assert batch['image'].numpy().dtype == batch['mask'].numpy().dtype == dtype
        assert batch['label'].tolist() == made['label'][rows['row']].tolist()
        for image, mask, drawn in zip(batch['image'].numpy(), batch['mask'].numpy(), rows):
            row, flip, shift, centre, zoom, factors = drawn
            expected = moved(made['image'][row], flip, shift, zoom, smooth=False)
            assert np.allclose(mask, expected[:1], atol=1e-2)
            expected = moved(made['image'][row], flip, shift, zoom, smooth=True)
            expected = expected if dtype is np.float32 else expected.round()
            if augment.jitter:
                expected = jittered(expected, *factors)
            expected = cut_out(expected, centre, augment.cutout)
            # a half may be rounded either way, and contrast can double that
            assert np.abs(image - expected).max() <= (1e-2 if dtype is np.float32 else 1 + 1e-2)
            if not augment.zoom and not augment.jitter and dtype is np.uint8:
                assert np.array_equal(image, expected)
            changed += not np.array_equal(image, made['image'][row])
        assert changed > 8
    assert np.array_equal(opened(tmp_path / 'x').batch(np.arange(64))['image'], made['image'])


def test_off_it_is_the_identity(tmp_path):
    made, off = pictures(tmp_path / 'x')['train'], Augment('none', 0, 0)
    assert not off and all(KINDS.values())
    for augment in None, off:
        split = opened(tmp_path / 'x', augment)
        rows = split.rows(0, 16, seed=1)
        assert rows.dtype.names is None and np.array_equal(split.batch(rows)['image'], made['image'][rows])
    drawn = np.zeros(16, DRAWN)
    drawn['row'], drawn['zoom'], drawn['jitter'] = rows, 1, 1
    for augment in off, Augment('random', 6, 0), Augment('random', 6, 0, 1, 1):
        batch = opened(tmp_path / 'x', augment).batch(drawn)
        assert all(np.array_equal(batch[field], made[field][rows]) for field in made)


# --- what is drawn

def chi_square(counts):
    """The sum of squared deviations from equal counts, and what it exceeds once in a thousand times."""
    degrees = counts.size - 1                   # Wilson & Hilferty 1931: its cube root is nearly normal
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees)))**3
    return ((counts - counts.mean())**2 / counts.mean()).sum(), limit


@pytest.mark.parametrize('most', [0, 1, 2, 4])
def test_flips_and_shifts_are_uniform_and_independent(most):
    side, counts = 2 * most + 1, 0
    for step in range(100):
        drawn = Augment('random', most, 0).draw(np.arange(200), 0, step, seed=3)
        assert abs(drawn['shift']).max() == most
        cells = (drawn['flip'] * side + drawn['shift'][:, 0] + most) * side + drawn['shift'][:, 1] + most
        counts = counts + np.bincount(cells, minlength=2 * side**2)
    found, limit = chi_square(counts)
    assert counts.size == 2 * side**2 and found < limit
    still = Augment('none', 0, 3).draw(np.arange(200), 0, 0, seed=3)
    assert not still['flip'].any() and not still['shift'].any()


def test_centres_are_uniform():
    drawn = [Augment('none', 0, 3).draw(np.arange(200), 0, step, seed=3)['centre'] for step in range(50)]
    y, x = (np.concatenate(drawn) * 5).astype(int).T
    found, limit = chi_square(np.bincount(5 * y + x, minlength=25))
    assert found < limit


def test_zoom_and_jitter_are_within_their_bounds_and_fill_them():
    drawn = [Augment('none', 0, 0, 0.5, 0.2).draw(np.arange(200), 0, step, seed=3) for step in range(50)]
    larger = np.log(np.concatenate([d['zoom'] for d in drawn])) / np.log(1.5)       # as often as smaller
    factors = (np.concatenate([d['jitter'] for d in drawn]) - 1) / 0.2
    for values in larger, *factors.T:
        assert -1.00001 <= values.min() < -0.99 and 0.99 < values.max() <= 1.00001
        found, limit = chi_square(np.bincount(((values + 1) * 4.9999).astype(int), minlength=10))
        assert found < limit
    assert np.abs(np.corrcoef([larger, *factors.T]) - np.eye(4)).max() < 0.04
    still = Augment('random', 2, 3).draw(np.arange(200), 0, 0, seed=3)
    assert (still['zoom'] == 1).all() and (still['jitter'] == 1).all()


def test_masks_keep_their_codes_under_any_zoom(tmp_path):
    mask = np.array([1, 3], np.uint8)[np.random.default_rng(0).integers(2, size=(16, 1, 9, 9))]
    data.save(str(tmp_path / 'x'), {'train': {'image': np.repeat(mask, 3, 1), 'mask': mask}},
              info={'mean': MEAN})
    split = opened(tmp_path / 'x', KINDS['far'], ('image', 'mask'))
    for step in range(8):
        batch = split.batch(split.rows(step, 16, seed=2))
        assert {*batch['mask'].unique().tolist()} == {1, 3} and 2 in batch['image']


def test_alternating_mirrors_every_row_in_one_of_two_epochs(tmp_path):
    made = pictures(tmp_path / 'x', {'train': 96})['train']['image']
    split, flips = opened(tmp_path / 'x', Augment('alternating', 0, 0)), np.full((4, 96), -1)
    for step in range(4 * 12):
        rows = split.rows(step, 8, seed=1)
        for image, row in zip(split.batch(rows)['image'].numpy(), rows['row']):
            flips[step // 12, row] = np.array_equal(image, np.flip(made[row], 2))
    assert (flips[0] + flips[1] == 1).all() and (flips[0] == flips[2]).all() and (flips[1] == flips[3]).all()
    rows = np.arange(10_000)
    half = Augment('alternating', 0, 0).draw(rows, 0, 0, seed=1)['flip']
    for part in rows % 2 == 0, rows % 3 == 1, rows < 100, rows >= 9900, rows % 100 == 7:    # classes in turn
        assert 0.4 < half[part].mean() < 0.6


def test_it_is_a_function_of_seed_and_step_alone(tmp_path):
    pictures(tmp_path / 'x')
    one, other = (opened(tmp_path / 'x', KINDS['everything']) for _ in range(2))

    def images(split, steps, seed=5):
        return {step: split.batch(split.rows(step, 8, seed))['image'] for step in steps}
    forward = images(one, range(12))
    np.random.seed(1), torch.manual_seed(1)
    backward = images(other, reversed(range(12)))
    assert all(torch.equal(forward[step], backward[step]) for step in range(12))
    assert not any(torch.equal(forward[step], image) for step, image in images(one, range(12), 6).items())
    drawn = [one.rows(step, 8, 5)[[*DRAWN.names[1:]]].tobytes() for step in range(12)]
    assert len({*drawn}) == 12


@pytest.mark.parametrize('ahead', [False, True])
def test_a_memory_map_gives_the_same_pictures(tmp_path, monkeypatch, ahead):
    pictures(tmp_path / 'x')
    resident = opened(tmp_path / 'x', KINDS['everything'])
    monkeypatch.setattr(data, 'RESIDENT', 0)
    mapped = opened(tmp_path / 'x', KINDS['everything'])
    assert resident.resident and not mapped.resident
    for step in range(12):
        rows, following = (resident.rows(i, 8, 1) for i in (step, step + 1))
        expected, found = resident.batch(rows), mapped.batch(rows, following if ahead else None)
        assert all(torch.equal(expected[field], found[field]) for field in expected)


# --- ranks and micro-batches

@pytest.mark.parametrize('world, size', [(1, 4), (2, 4), (2, 2), (4, 1), (8, 1)])
def test_the_shares_of_a_batch_are_the_batch(tmp_path, world, size):
    pictures(tmp_path / 'x')
    for step in 0, 1, 7:
        split = opened(tmp_path / 'x', KINDS['everything'])
        rows, found = split.rows(step, 8, 1), {}
        whole = split.batch(rows)
        for rank in range(world):               # as train.py's micro_batches has it, each rank its own Split
            split = opened(tmp_path / 'x', KINDS['everything'])
            for part in split.rows(step, 8, 1).reshape(-1, world, size)[:, rank]:
                found |= zip(part['row'].tolist(), split.batch(part)['image'])
        assert found.keys() == {*rows['row'].tolist()}
        assert all(torch.equal(found[row], image) for row, image in zip(rows['row'].tolist(), whole['image']))


SMALL = ('--model=cnn', '--width=4', '--batch_size=8', '--max_iters=4', '--eval_interval=4', '--device=cpu',
         '--log_interval=1', '--schedule=constant', '--warmup_iters=0', '--optimizer=sgd',
         '--dtype=float32', '--learning_rate=1e-2', '--flip=random', '--shift=2', '--cutout=4', '--zoom=0.2',
         '--jitter=0.1')


def without_batches():
    """Patched into a child: a norm of single pictures; BatchNorm sees other batches on other ranks."""
    nn.BatchNorm2d = functools.partial(nn.GroupNorm, 1)


def test_ranks_and_micro_batches_give_the_same_run_on_pictures(launch, tmp_path):
    pictures(tmp_path / 'x')
    for name, ranks, size in ('whole', 0, 8), ('both', 2, 2):
        code, text = launch('train.py', *SMALL, f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/{name}',
                            f'--micro_batch_size={size}', ranks=ranks,
                            env={'PATCH': 'test_augment.without_batches'})
        assert code == 0, text
    whole = losses(tmp_path / 'whole')
    assert len({*whole.values()}) == 4 and losses(tmp_path / 'both') == pytest.approx(whole, abs=1e-5)


# --- what is refused

def test_what_cannot_be_augmented_is_refused(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/run', '--flip=random')
    assert code == 2 and 'flip' in text and 'Traceback' not in text and not (tmp_path / 'run').exists(), text
    pictures(tmp_path / 'x', H=9, W=7)
    for shift in 7, 8, 100:
        with pytest.raises(Refused, match=f'larger than shift {shift}') as refused:
            opened(tmp_path / 'x', Augment('none', shift, 0))
        assert refused.value.code == 2
    with pytest.raises(Refused, match='sizes'):
        opened(tmp_path / 'x', Augment('random', 0, 0), ['label'])


# --- a data set without val

@pytest.mark.parametrize('splits', [('train', 'test'), ('train',)])
def test_without_val_the_last_step_is_the_best_and_test_is_read(launch, tmp_path, splits):
    pictures(tmp_path / 'x', {split: 40 for split in splits})
    argv = *SMALL, f'--dataset={tmp_path}/x'
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/refused', '--target=0.9')
    assert code == 2 and f'target is a value on val, which {tmp_path}/x has not' in text, text
    assert not (tmp_path / 'refused').exists()
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/a', '--keep_interval=2',
                        '--eval_interval=2')
    assert code == 0 and 'next: python sample.py' in text, text
    best, last = (run.read(tmp_path / f'a/{name}.pt') for name in ('best', 'last'))
    assert best['step'] == best['best']['step'] == 4 and last['done']
    assert best['model'].keys() == last['model'].keys()
    assert all(torch.equal(best['model'][name], last['model'][name]) for name in best['model'])
    evaluated = [(line['split'], line['step']) for line in events(tmp_path / 'a', 'eval')]
    assert evaluated == ([('test', 4)] if 'test' in splits else [])
    (tmp_path / 'b').mkdir()
    shutil.copy(tmp_path / 'a/step_2.pt', tmp_path / 'b/last.pt')       # as if it had been killed there
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/b')
    assert code == 0 and 'resuming' in text, text
    straight = losses(tmp_path / 'a')
    assert losses(tmp_path / 'b') == {step: straight[step] for step in (3, 4)}
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/a')
    assert code == 0 and 'finished run' in text, text


def test_channels_last_changes_the_layout_and_nothing_else(launch, tmp_path):
    pictures(tmp_path / 'x')
    for name, last in ('a', False), ('b', True):
        code, text = launch('train.py', *SMALL, f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/{name}',
                            f'--channels_last={last}')
        assert code == 0, text
        weight = run.read(tmp_path / name / 'last.pt')['model']['groups.0.conv2.weight']
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert losses(tmp_path / 'b') == pytest.approx(losses(tmp_path / 'a'), abs=1e-4)
