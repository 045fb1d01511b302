"""data/augment.py: the images against a loop in numpy, the distribution of the parameters, and runs."""
import functools
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import data
from conftest import MEAN, TINY, events, image_data, losses
from core.checkpoint import load_checkpoint
from core.errors import UserError
from data import loading
from data.augment import Augment, AugmentedRows, half_of

AUGMENTS = {
    'flip': Augment(flip='random'), 'alternating': Augment(flip='alternating'), 'shift': Augment(shift=3),
    'largest shift': Augment(shift=6), 'cutout': Augment(cutout=4), 'odd cutout': Augment(cutout=5),
    'cutout of everything': Augment(cutout=99), 'zoom': Augment(zoom=0.5),
    'large zoom': Augment(flip='random', shift=1, zoom=3), 'jitter': Augment(jitter=0.4),
    'largest jitter': Augment(jitter=1), 'all': Augment('random', shift=2, cutout=3, zoom=0.3, jitter=0.2)}


def load_train(path, augment=None, fields=('image', 'mask', 'label')):
    return data.load_split(str(path), 'train', list(fields), augment=augment)


# --- options

@pytest.mark.parametrize('options, problem', [
    ({'shift': -1}, 'shift must be at least 0, got -1'),
    ({'cutout': -2}, 'cutout must be at least 0, got -2'),
    ({'zoom': -0.5}, 'zoom must be at least 0, got -0.5'),
    ({'jitter': -0.1}, 'jitter must be from 0 to 1, got -0.1'),
    ({'jitter': 1.1}, 'jitter must be from 0 to 1, got 1.1'),
    ({'flip': 'always'}, 'flip must be none, random or alternating, got always')])
def test_an_option_out_of_range_is_an_error(options, problem):
    with pytest.raises(ValueError, match=problem):
        Augment(**options)


def test_all_options_out_of_range_are_listed_at_once():
    with pytest.raises(ValueError) as error:
        Augment(shift=-1, cutout=-1, jitter=2)
    assert [line.split()[0] for line in str(error.value).split('\n')] == ['shift', 'cutout', 'jitter']


def test_the_options_of_train_are_the_fields_with_a_comment_each(launch):
    code, text = launch('train.py', '--help')
    assert code == 0
    lines = {line.split('=')[0].strip(): line for line in text.splitlines() if line.startswith('  --')}
    for option in 'flip', 'shift', 'cutout', 'zoom', 'jitter':
        assert 'of train' in lines[f'--{option}'], text


# --- what is done to an image

def affine(image, flip, shift, zoom, smooth):
    """Return one image (C, H, W), mirrored if `flip`, `zoom` times as large, moved down and right by `shift`.

    A pixel is what is nearest to where it came from or, if `smooth`, between the four that are. All around
    the image are its reflections.
    """
    _, H, W = image.shape
    image = np.flip(image, 2) if flip else image
    around = np.pad(image, ((0, 0), (4 * H, 4 * H), (4 * W, 4 * W)), mode='reflect')
    made = np.empty(image.shape)
    for i in range(H):
        for j in range(W):
            y = (i - shift[0] - (H - 1) / 2) / zoom + (H - 1) / 2 + 4 * H
            x = (j - shift[1] - (W - 1) / 2) / zoom + (W - 1) / 2 + 4 * W
            if not smooth:
                y, x = round(y), round(x)
            top, left = int(np.floor(y)), int(np.floor(x))
            y -= top
            x -= left
            corners = around[:, top:top + 2, left:left + 2].astype(float)
            made[:, i, j] = np.einsum('cyx,y,x->c', corners, [1 - y, y], [1 - x, x])
    return made


def color_jitter(image, brightness, contrast, saturation):
    """Return one image (3, H, W) with its values, then their distances to two means, multiplied."""
    image = image * brightness
    image = image.mean() + (image - image.mean()) * contrast
    gray = image.mean(0)
    return np.clip(gray + (image - gray) * saturation, 0, 255)


def cutout(image, center, side):
    """Return one image (C, H, W) with a square of the mean color."""
    image = image.copy()
    _, H, W = image.shape
    top = int(center[0] * H) - side // 2
    left = int(center[1] * W) - side // 2
    for y in range(H):
        for x in range(W):
            if top <= y < top + side and left <= x < left + side:
                image[:, y, x] = np.multiply(MEAN, 255).round()
    return image


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('name', AUGMENTS)
def test_a_batch_is_the_loop_over_its_images_and_masks_move_along(tmp_path, name, dtype):
    augment = AUGMENTS[name]
    made = image_data(tmp_path / 'x', {'train': 64}, 9, 7, dtype)['train']
    split = load_train(tmp_path / 'x', augment)
    for step in 0, 1, 3:
        rows = split.rows(step, 32, seed=5)
        batch = split.batch(rows)
        assert batch['image'].shape == (32, 3, 9, 7) and batch['mask'].shape == (32, 1, 9, 7)
        assert batch['image'].numpy().dtype == batch['mask'].numpy().dtype == dtype
        assert batch['label'].tolist() == made['label'][rows.rows].tolist()
        changed = 0
        for image, mask, i in zip(batch['image'].numpy(), batch['mask'].numpy(), range(32)):
            original = made['image'][rows.rows[i]]
            moves = rows.flip[i], rows.shift[i], rows.zoom[i]
            expected = affine(original, *moves, smooth=False)
            assert np.allclose(mask, expected[:1], atol=1e-2)
            expected = affine(original, *moves, smooth=True)
            expected = expected if dtype is np.float32 else expected.round()
            if augment.jitter:
                expected = color_jitter(expected, *rows.jitter[i])
            expected = cutout(expected, rows.center[i], augment.cutout)
            # a half may be rounded either way, and contrast can double that
            assert np.abs(image - expected).max() <= (1e-2 if dtype is np.float32 else 1 + 1e-2)
            if not augment.zoom and not augment.jitter and dtype is np.uint8:
                assert np.array_equal(image, expected)
            changed += not np.array_equal(image, original)
        assert changed > 8
    assert np.array_equal(load_train(tmp_path / 'x').batch(np.arange(64))['image'], made['image'])


def test_switched_off_it_is_the_identity(tmp_path):
    made = image_data(tmp_path / 'x')['train']
    off = Augment()
    assert not off.enabled and all(augment.enabled for augment in AUGMENTS.values())
    for augment in None, off:
        split = load_train(tmp_path / 'x', augment)
        rows = split.rows(0, 16, seed=1)
        assert isinstance(rows, np.ndarray)
        assert np.array_equal(split.batch(rows)['image'], made['image'][rows])
    neutral = AugmentedRows(rows, np.zeros(16, int), np.zeros((16, 2), int), np.zeros((16, 2), np.float32),
                            np.ones(16, np.float32), np.ones((16, 3), np.float32))
    for augment in Augment('random', shift=6), Augment('random', shift=6, zoom=1, jitter=1):
        batch = load_train(tmp_path / 'x', augment).batch(neutral)
        assert all(np.array_equal(batch[field], made[field][rows]) for field in made)


def test_rows_that_are_not_augmented_are_read_as_they_are(tmp_path):
    made = image_data(tmp_path / 'x')['train']
    split = load_train(tmp_path / 'x', AUGMENTS['all'])
    for rows in split.evaluation_batches(16):
        assert np.array_equal(split.batch(rows)['image'], made['image'][rows])


# --- the parameters

def chi_square(counts):
    """Return the chi-square of equal counts, and what it exceeds once in a thousand times."""
    degrees = counts.size - 1                   # Wilson & Hilferty 1931: its cube root is nearly normal
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees)))**3
    return ((counts - counts.mean())**2 / counts.mean()).sum(), limit


def sample(augment, step, n=200):
    return augment.sample_params(np.arange(n), 0, step, seed=3)


@pytest.mark.parametrize('most', [0, 1, 2, 4])
def test_flips_and_shifts_are_uniform_and_independent(most):
    side = 2 * most + 1
    counts = 0
    for step in range(100):
        params = sample(Augment('random', shift=most), step)
        assert abs(params.shift).max() == most
        cells = (params.flip * side + params.shift[:, 0] + most) * side + params.shift[:, 1] + most
        counts = counts + np.bincount(cells, minlength=2 * side**2)
    found, limit = chi_square(counts)
    assert counts.size == 2 * side**2 and found < limit
    still = sample(Augment(cutout=3), 0)
    assert not still.flip.any() and not still.shift.any()


def test_centers_are_uniform():
    centers = [sample(Augment(cutout=3), step).center for step in range(50)]
    y, x = (np.concatenate(centers) * 5).astype(int).T
    found, limit = chi_square(np.bincount(5 * y + x, minlength=25))
    assert found < limit


def test_zoom_and_jitter_are_within_their_bounds_and_fill_them():
    params = [sample(Augment(zoom=0.5, jitter=0.2), step) for step in range(50)]
    zoom = np.log(np.concatenate([p.zoom for p in params])) / np.log(1.5)       # enlarged as often as reduced
    factors = (np.concatenate([p.jitter for p in params]) - 1) / 0.2
    for values in zoom, *factors.T:
        assert -1.00001 <= values.min() < -0.99 and 0.99 < values.max() <= 1.00001
        found, limit = chi_square(np.bincount(((values + 1) * 4.9999).astype(int), minlength=10))
        assert found < limit
    assert np.abs(np.corrcoef([zoom, *factors.T]) - np.eye(4)).max() < 0.04
    still = sample(Augment('random', shift=2, cutout=3), 0)
    assert (still.zoom == 1).all() and (still.jitter == 1).all()


def test_one_option_does_not_change_what_the_others_draw():
    some = sample(Augment('random', shift=2), 0)
    more = sample(Augment('random', shift=2, cutout=3, zoom=0.3, jitter=0.2), 0)
    assert np.array_equal(some.flip, more.flip) and np.array_equal(some.shift, more.shift)
    assert np.array_equal(some.center, more.center)


def test_masks_keep_their_values_under_any_zoom(tmp_path):
    mask = np.array([1, 3], np.uint8)[np.random.default_rng(0).integers(2, size=(16, 1, 9, 9))]
    data.save(str(tmp_path / 'x'), {'train': {'image': np.repeat(mask, 3, 1), 'mask': mask}},
              info={'mean': MEAN})
    split = load_train(tmp_path / 'x', AUGMENTS['large zoom'], ('image', 'mask'))
    for step in range(8):
        batch = split.batch(split.rows(step, 16, seed=2))
        assert set(batch['mask'].unique().tolist()) == {1, 3} and 2 in batch['image']


def test_alternating_mirrors_every_row_in_one_of_two_epochs(tmp_path):
    made = image_data(tmp_path / 'x', {'train': 96})['train']['image']
    split = load_train(tmp_path / 'x', Augment('alternating'))
    flips = np.full((4, 96), -1)
    for step in range(4 * 12):
        rows = split.rows(step, 8, seed=1)
        for image, row in zip(split.batch(rows)['image'].numpy(), rows.rows):
            flips[step // 12, row] = np.array_equal(image, np.flip(made[row], 2))
    assert (flips[0] + flips[1] == 1).all() and (flips[0] == flips[2]).all() and (flips[1] == flips[3]).all()


def test_the_half_of_alternating_halves_every_class():
    rows = np.arange(10_000)
    half = half_of(rows)
    product = [int(row) * 0x9E3779B97F4A7C15 % 2**64 for row in rows]
    assert half.tolist() == [value >> 63 for value in product]
    for part in rows % 2 == 0, rows % 3 == 1, rows < 100, rows >= 9900, rows % 100 == 7:    # classes in turn
        assert 0.4 < half[part].mean() < 0.6


def test_it_is_a_function_of_seed_and_step_alone(tmp_path):
    image_data(tmp_path / 'x')
    one, other = (load_train(tmp_path / 'x', AUGMENTS['all']) for _ in range(2))

    def images(split, steps, seed=5):
        return {step: split.batch(split.rows(step, 8, seed))['image'] for step in steps}
    forward = images(one, range(12))
    np.random.seed(1), torch.manual_seed(1)
    backward = images(other, reversed(range(12)))
    assert all(torch.equal(forward[step], backward[step]) for step in range(12))
    assert not any(torch.equal(forward[step], image) for step, image in images(one, range(12), 6).items())
    params = [b''.join(array.tobytes() for array in one.rows(step, 8, 5).arrays()[1:]) for step in range(12)]
    assert len(set(params)) == 12


@pytest.mark.parametrize('ahead', [False, True])
def test_a_memory_map_gives_the_same_images(tmp_path, monkeypatch, ahead):
    image_data(tmp_path / 'x')
    resident = load_train(tmp_path / 'x', AUGMENTS['all'])
    monkeypatch.setattr(loading, 'RESIDENT', 0)
    mapped = load_train(tmp_path / 'x', AUGMENTS['all'])
    assert resident.resident and not mapped.resident
    for step in range(12):
        rows, next_rows = (resident.rows(i, 8, 1) for i in (step, step + 1))
        expected, found = resident.batch(rows), mapped.batch(rows, next_rows if ahead else None)
        assert all(torch.equal(expected[field], found[field]) for field in expected)


# --- ranks and micro-batches

def test_augmented_rows_are_indexed_and_reshaped_like_an_array():
    params = sample(AUGMENTS['all'], 0, n=24)
    parts = params.reshape(-1, 2, 4)[:, 1]
    index = np.arange(24).reshape(-1, 2, 4)[:, 1]
    assert len(params) == 24 and len(parts) == 3 and len(list(parts)) == 3
    for part, i in zip(parts, index):
        for array, expected in zip(part.arrays(), params.arrays()):
            assert np.array_equal(array, expected[i])
    assert np.array_equal(params[-2:].zoom, params.zoom[-2:])


@pytest.mark.parametrize('world, size', [(1, 4), (2, 4), (2, 2), (4, 1), (8, 1)])
def test_the_parts_of_a_batch_are_the_batch(tmp_path, world, size):
    image_data(tmp_path / 'x')
    for step in 0, 1, 7:
        split = load_train(tmp_path / 'x', AUGMENTS['all'])
        rows = split.rows(step, 8, 1)
        whole = split.batch(rows)['image']
        found = {}
        for rank in range(world):               # as in train.py's micro_batches, where each rank has a reader
            split = load_train(tmp_path / 'x', AUGMENTS['all'])
            for part in split.rows(step, 8, 1).reshape(-1, world, size)[:, rank]:
                found |= zip(part.rows.tolist(), split.batch(part)['image'])
        assert found.keys() == set(rows.rows.tolist())
        assert all(torch.equal(found[row], image) for row, image in zip(rows.rows.tolist(), whole))


SMALL = ('--model=cnn', '--width=4', '--batch_size=8', '--max_iters=4', '--eval_interval=4', '--device=cpu',
         '--log_interval=1', '--schedule=constant', '--warmup_fraction=0', '--optimizer=sgd',
         '--dtype=float32', '--learning_rate=1e-2', '--flip=random', '--shift=2', '--cutout=4', '--zoom=0.2',
         '--jitter=0.1')


def without_batches():
    """Patched into a child: normalize single images, as BatchNorm sees other batches on other ranks."""
    nn.BatchNorm2d = functools.partial(nn.GroupNorm, 1)


def test_ranks_and_micro_batches_give_the_same_run_on_images(launch, tmp_path):
    image_data(tmp_path / 'x')
    for name, ranks, size in ('whole', 0, 8), ('both', 2, 2):
        code, text = launch('train.py', *SMALL, f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/{name}',
                            f'--micro_batch_size={size}', ranks=ranks,
                            env={'PATCH': 'test_augment.without_batches'})
        assert code == 0, text
    whole = losses(tmp_path / 'whole')
    assert len(set(whole.values())) == 4 and losses(tmp_path / 'both') == pytest.approx(whole, abs=1e-5)


# --- what cannot be augmented

def test_text_cannot_be_augmented(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/run', '--flip=random')
    assert code == 2 and 'flip' in text and 'Traceback' not in text and not (tmp_path / 'run').exists(), text


@pytest.mark.parametrize('shift', [7, 8, 100])
def test_a_shift_as_large_as_the_image_is_an_error(tmp_path, shift):
    image_data(tmp_path / 'x', H=9, W=7)
    with pytest.raises(UserError, match=f'larger than shift {shift}') as error:
        load_train(tmp_path / 'x', Augment(shift=shift))
    assert error.value.code == 2


def test_fields_without_images_cannot_be_augmented(tmp_path):
    image_data(tmp_path / 'x')
    with pytest.raises(UserError, match='images of one size'):
        load_train(tmp_path / 'x', Augment('random'), ['label'])
    for augment in Augment(cutout=2), Augment(jitter=0.1):
        with pytest.raises(UserError, match='cutout and jitter need a field `image`'):
            load_train(tmp_path / 'x', augment, ['mask', 'label'])


# --- a data set without val

@pytest.mark.parametrize('splits', [('train', 'test'), ('train',)])
def test_without_val_the_last_step_is_the_best_and_test_is_read(launch, tmp_path, splits):
    image_data(tmp_path / 'x', {split: 40 for split in splits})
    argv = *SMALL, f'--dataset={tmp_path}/x'
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/error', '--target=0.9')
    assert code == 2 and f'target is a value on val, which {tmp_path}/x' in text, text
    assert not (tmp_path / 'error').exists()
    code, text = launch('train.py', *argv, f'--out_dir={tmp_path}/a', '--keep_interval=2',
                        '--eval_interval=2')
    assert code == 0 and 'next: python sample.py' in text, text
    best, last = (load_checkpoint(tmp_path / f'a/{name}.pt') for name in ('best', 'last'))
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
    image_data(tmp_path / 'x')
    for name, last in ('a', False), ('b', True):
        code, text = launch('train.py', *SMALL, f'--dataset={tmp_path}/x', f'--out_dir={tmp_path}/{name}',
                            f'--channels_last={last}')
        assert code == 0, text
        weight = load_checkpoint(tmp_path / name / 'last.pt')['model']['groups.0.conv2.weight']
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert losses(tmp_path / 'b') == pytest.approx(losses(tmp_path / 'a'), abs=1e-4)
