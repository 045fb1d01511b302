"""What a trained model produces: text, translations, classes, masks, images. It needs the run folder or
checkpoint alone: no network, and the data set only where rows of it are asked for.

    python sample.py --out_dir=out/shakespeare --start='ROMEO:' --num_samples=3
    python sample.py --out_dir=out/stdlib --start=FILE:prompt.txt --temperature=0
    echo 'def main(' | python sample.py --out_dir=out/stdlib --start=-
    python sample.py --out_dir=out/multi30k --start='A dog runs.'       # or FILE:path, a line each
    python sample.py --out_dir=out/multi30k --split=test --beam=4 --bleu
    python sample.py --out_dir=out/cifar10_cnn                  # 25 test pictures, each with its class
    python sample.py --out_dir=out/cifar10_cnn --start=cat.jpg  # a picture of your own
    python sample.py --out_dir=out/cifar10_cnn --out=test.jsonl # all of test, a line of probabilities per row
    python sample.py --out_dir=out/pets_mp_tr_bce --start=photo.jpg     # where the pet is
    python sample.py --out_dir=out/cvae_mnist --grid=wrong_label        # a 7 as a 3 in the same hand
    python sample.py --out_dir=out/cvae_mnist --judge=out/mnist_cnn     # does a picture obey its label?
"""
import contextlib, inspect, json, math, os, sys, time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

import configurator, data, run, score, search
from configurator import Refused
from data import picture
from data.tokenizer import load
from search import beam_search, translate   # the first for who imports it from here

# --- of all
out_dir = 'out/stdlib'  # a run folder (its best.pt) or a .pt file
seed = 1337             # of the sampling, or of which pictures
device = 'auto'         # auto, cpu, cuda, mps
# --- of text, translations, classes and masks alone
start = ''              # a text or picture; FILE:path to read the text there, - from the standard input
# --- of text, classes, masks and images alone
num_samples = 0         # texts, or pictures of a grid, or its rows, of prior its columns; 0: a fitting number
# --- of text alone
stop = ''               # a string that ends a sample
max_new_tokens = 500    # tokens in each
# --- of text and translations alone
temperature = 0.8       # below 1 safer, above 1 wilder, 0 always the likeliest token
top_k = 0               # only from the k likeliest tokens; 0: all
top_p = 1.0             # only from the fewest tokens that together have this probability; 0: the likeliest
min_p = 0.0             # only from tokens of at least this share of the likeliest's probability; 0: all
cache = True            # keys and values of what is written are kept; False: the same, slower, to compare
# --- of translations alone
beam = 4                # beginnings that are followed; 1: greedy; 0: drawn as text is
length_penalty = 0.6    # of beams; above 0 longer ones are liked better
bleu = False            # tell how close the rows of a split are to their references
# --- of images alone
grid: Literal['prior', 'wrong_label', 'reconstruct', 'interpolate', 'style'] = 'prior'  # what is drawn
judge = ''              # a classifier's run folder: how often it sees the label that was given
# --- of translations, classes, masks and images alone
split = ''              # which rows of the data set; empty: test, where there is one, else val
out = ''                # FILE.txt, a translation per line; FILE.jsonl, a line per row; FILE.png, a grid

from score import bleu  # what `import sample` gives: a function; in a command it is the knob above

MISTAKE = 213, 94, 0    # the colour of one, 8 bits of red, green and blue: Okabe & Ito's vermilion
FOUND = 0, 114, 178     # and of what was to be found: their blue


def preview(net, meta, source):
    """A short sample for the record of a run, a text or the translations of the first rows of the split
    `source`; else nothing."""
    tokenizer, training, text = load(meta['tokenizer']), net.training, ''
    net.eval()
    if tokenizer and hasattr(net, 'generate'):
        *_, (text,) = continuations(net, [tokenizer.begin()], 400, chooser(net), tokenizer.decode)
    elif tokenizer and hasattr(net, 'decode'):
        some = range(min(3, source.size))
        sources, references = ([source.row(field, i) for i in some] for field in ('src', 'tgt'))
        triples = zip(sources, translate(net, sources), references)
        text = '\n\n'.join('\n'.join(map(tokenizer.decode, triple)) for triple in triples)
    net.train(training)
    line = '-' * 80
    return f'{line}\n{text.strip()}\n{line}' if text else ''


# --- what goes in

def prompted():
    """The text that `start` means. Raises Refused, code 3, if it cannot be read or is not UTF-8."""
    try:
        if start.startswith('FILE:'):
            return Path(start[5:]).read_text(encoding='utf-8-sig')
        return sys.stdin.read().removeprefix('\ufeff') if start == '-' else start
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f'--start: {error}', code=3)


def opened(file, channels):
    """The picture in a file, as PIL's with 1 channel or 3, and the mode that it had. Raises Refused, code 3,
    if it is not there or does not decode."""
    try:
        with picture.Image.open(file) as image:
            mode = image.mode
        return picture.rgb(file).convert('L' if channels == 1 else 'RGB'), mode
    except Exception as error:          # PIL raises nearly everything, from SyntaxError to struct.error
        raise Refused(f'--start={file}: {getattr(error, "strerror", None) or error}', code=3)


def rows_of(checkpoint, fields, name='', block_size=0):
    """The split `name`, else the one that the knob `split` says, of the data set that the model was trained
    on. Raises Refused, code 3, if it is not here or not the same any more."""
    dataset, prepare = (checkpoint['keys'].get(key, '') for key in ('dataset', 'prepare'))
    path = data.folder(dataset)
    if not (path / 'meta.json').exists():
        raise Refused(f'the data set that {out_dir} was trained on is not here: {path}',
                      *[f'to make it: python {path}/prepare.py {prepare}'] * (path / 'prepare.py').exists(),
                      'what is your own needs none: --start=FILE', code=3)
    meta = data.check(dataset)
    name = name or split or next(name for name in ('test', 'val', *meta['splits']) if name in meta['splits'])
    if name not in meta['splits']:
        raise Refused(f'split {name!r}: {dataset} has {", ".join(meta["splits"])}')
    now, was = data.hashes(meta), checkpoint.get('data', {})
    changed = [field for field in fields if now.get(f'{name}.{field}') != was.get(f'{name}.{field}')]
    if changed:
        raise Refused(f'{path} is not what {out_dir} was trained on: {" and ".join(changed)} of {name} '
                      'changed since; prepare it as it was then', code=3)
    return data.Split(dataset, name, fields, block_size, device)


def drawn(source, n):
    """Which `n` rows of a split `seed` draws, ascending; all of them where there are fewer."""
    return np.sort(np.random.default_rng(seed).permutation(source.size)[:n])


def how_many(default, pictures=1):
    """`num_samples`, else `default`, of so many pictures each. Raises Refused for more than 400 in all."""
    if num_samples > 400 // pictures:
        raise Refused(f'num_samples must be from 0 to {400 // pictures} in a grid, got {num_samples}')
    return num_samples or default


# --- what comes out

@contextlib.contextmanager
def writing(file):
    """Say that a file is written when it is. Raises Refused, code 4, if it cannot be."""
    try:
        yield
    except OSError as error:
        raise Refused(f'--out={file} cannot be written: {error.strerror or error}', code=4)
    print(f'wrote {file}')


def scale(images):
    """How many times (n, C, H, W) pictures are enlarged to be seen."""
    return math.ceil(160 / min(images.shape[2:]))


def tiles(images, captions, title, file, columns=0):
    """Draw (n, C, H, W) uint8 pictures, a square for every pixel, in so many columns (0: as many as rows),
    each over its caption of up to two lines. One that begins with a cross is a mistake: framed, in colour.
    Raises OSError."""
    from matplotlib.figure import Figure
    enlarged = images[:, :3 if images.shape[1] > 2 else 1].repeat(scale(images), 2).repeat(scale(images), 3)
    (n, _, H, W), columns, dpi = enlarged.shape, columns or math.ceil(math.sqrt(len(images))), 128
    height, width = 44 + math.ceil(n / columns) * (H + 52), max(420, 20 + columns * (W + 20))    # pixels
    canvas, figure = np.full((height, width, 3), 255, np.uint8), Figure((width / dpi, height / dpi), dpi=dpi)

    def say(x, y, text, size=7, color='black'):
        figure.text(x / width, 1 - y / height, text, size=size, color=color, va='top', parse_math=False)

    say(20, 12, title, 8)
    for i, (image, caption) in enumerate(zip(enlarged, captions)):
        x, y, color = 20 + i % columns * (W + 20), 44 + i // columns * (H + 52), 'black'
        if caption[0].startswith('✗'):
            canvas[y - 5:y + H + 5, x - 5:x + W + 5], color = MISTAKE, np.divide(MISTAKE, 255)
        canvas[y:y + H, x:x + W] = image.transpose(1, 2, 0)
        for row, line in enumerate(caption):
            say(x, y + H + 7 + 16 * row, line, color=color)
    figure.figimage(canvas)
    figure.savefig(file, dpi=dpi)


def show(checkpoint, images, captions, told, columns=0):
    """Write `tiles` into the file `out`, under model, data set and what is `told` of the pictures."""
    keys = checkpoint['keys']
    with writing(out):
        tiles(images.cpu().numpy(), captions, f'{keys["model"]}, {Path(keys["dataset"]).name}: {told}', out,
              columns)


# --- text

def chooser(net):
    """How the next token is drawn, as the knobs above say: (B, V) logits -> (B,) ids."""
    generator = torch.Generator(next(net.parameters()).device).manual_seed(seed)
    return lambda logits: search.sample(logits, temperature, top_k, top_p, min_p, generator)


def continuations(net, ids, max_new_tokens, choose, decode, stop='', cache=True):
    """Yield, after every new token, the texts with which the model has continued each of `ids`, lists of ids.
    A text ends before `stop`, if that is not empty; all is over when every text has ended."""
    made, over = [[] for _ in ids], [False] * len(ids)
    for chosen in net.generate(ids, max_new_tokens, choose, cache):
        for tokens, token, done in zip(made, chosen.tolist(), over):
            tokens += [token] * (not done)
        texts = [decode(tokens) for tokens in made]
        over = [stop != '' and stop in text for text in texts]
        yield [text.partition(stop)[0] if done else text for text, done in zip(texts, over)]
        if all(over):
            return


def write(net, checkpoint):
    """Print samples, as the knobs above say; a single one on a terminal while it grows."""
    tokenizer, prompt, count = load(checkpoint['tokenizer']), prompted(), num_samples or 1
    if not tokenizer:
        raise Refused(f'{out_dir} makes no text: it has no tokenizer')
    if not prompt:
        print('an empty prompt: the model begins', file=sys.stderr)
    ids, room = tokenizer.encode(prompt) or tokenizer.begin(), net.config.block_size
    if len(ids) > room:
        print(f'the prompt has {len(ids)} tokens, of which the model sees the last {room}', file=sys.stderr)
    texts, shown, streams = [''] * count, 0, count == 1 and sys.stdout.isatty()
    print(prompt if streams else '', end='', flush=True)
    for texts in continuations(net, [ids[-room:]] * count, max_new_tokens, chooser(net), tokenizer.decode,
                               stop, cache):
        safe = len(texts[0]) - max(len(stop) - 1, texts[0].endswith('\ufffd'))         # the rest may change
        if streams and safe > shown:
            print(texts[0][shown:safe], end='', flush=True)
            shown = safe
    line = f'\n{"-" * 80}\n'
    print(texts[0][shown:] if streams else line.join(prompt + text for text in texts))


# --- translations

def interpret(net, checkpoint):
    """Print the translations of the lines of `start` or of a split, or write them to `out`; tell BLEU."""
    tokenizer, room = load(checkpoint['tokenizer']), net.config.block_size
    if start:
        sources = [[*tokenizer.encode(line), search.END]
                   for line in prompted().removesuffix('\n').split('\n')]
    else:
        source = rows_of(checkpoint, ('src', 'tgt'))
        sources, targets = ([source.row(field, i) for i in range(source.size)] for field in ('src', 'tgt'))
        references = [tokenizer.decode(ids) for ids in targets]
    for i, ids in enumerate(sources):
        if len(ids) > room:
            print(f'line {i + 1} has {len(ids)} tokens, of which the model reads the first {room}',
                  file=sys.stderr)
            sources[i] = ids[:room - 1] + [search.END]
    begun = time.monotonic()
    full = [ids for ids in sources if len(ids) > 1]             # an empty line stays one
    made = iter(translate(net, full, beam, length_penalty, chooser(net), cache=cache))
    texts = [tokenizer.decode(next(made)) if len(ids) > 1 else '' for ids in sources]
    if out:
        with writing(out):
            Path(out).write_text(''.join(f'{text}\n' for text in texts), encoding='utf-8')
    elif not bleu:
        print(*texts, sep='\n')
    if bleu:
        how = (f'beam {beam}, length_penalty {length_penalty}' if beam > 1 else 'greedy' if beam
               else f'drawn at temperature {temperature}, seed {seed}')
        print(f'BLEU {score.bleu(texts, references):.2f} of {len(texts):,} lines of {source.name}, cased, '
              f'13a; {how}, at most 2 S + 10 tokens; {run.duration(time.monotonic() - begun)}')


# --- classes

@torch.no_grad()
def classify(net, split, rows):
    """What a classifier makes of n ascending `rows` of a split, in float32, as lists: their true classes (n),
    those it predicts (n), its probabilities (n x n_class)."""
    order, found = split.by_length(rows), []
    for i in range(0, len(order), 64):
        batch = split.batch(order[i:i + 64])
        true, logits = batch.pop('label'), net.logits(**batch)
        found.append((true, logits.argmax(1), logits.softmax(1)))
    back = torch.from_numpy(np.argsort(order))
    return [torch.cat(parts).cpu()[back].tolist() for parts in zip(*found)]


def verdicts(images, true, predicted, surely, names):
    """The captions of (n, C, H, W) pictures: the class that each is taken for and how surely, a share. A
    mistake is crossed and told what it is."""
    room = images.shape[3] * scale(images) // 7 - 5         # letters
    names = [name if len(name) <= room else f'{name[:room - 1]}…' for name in names]
    return [[f'{"✗ " * (t != p)}{names[p]} {share:.0%}', *[f'is {names[t]}'] * (t != p)]
            for t, p, share in zip(true, predicted, surely)]


@torch.no_grad()
def recognise(net, file, size, names):
    """Print the likeliest classes of the picture in a file, brought to `size`, (height, width), if any.
    Raises Refused, code 3, if it is not there or does not decode."""
    image, mode = opened(file, net.config.channels)
    (w, h), (H, W) = image.size, size or image.size[::-1]
    print(f'{file}: {w} x {h} {mode} -> {W} x {H} {image.mode}' + ', the middle of it' * (w * H != h * W))
    image = torch.from_numpy(picture.fitted(image, (H, W)))[None]                       # (1, C, H, W)
    logits = net.logits(image.to(next(net.parameters()).device))[0]
    best = logits.softmax(0).topk(min(5, len(names)))
    for share, i in zip(best.values.tolist(), best.indices.tolist()):
        print(f'{names[i].ljust(max(map(len, names)))}  {share:.4f}')


def tell(net, checkpoint):
    """Tell the classes of the picture `start`; or of rows of a split, as `out` says in a grid or in lines."""
    fields, info = inspect.signature(net.logits).parameters, checkpoint.get('info', {})
    names, lines = info.get('classes') or [*map(str, range(net.config.n_class))], out.endswith('.jsonl')
    if 'image' not in fields and not lines:
        raise Refused(f'{out_dir} reads no pictures; for what it makes of every row: --out=FILE.jsonl')
    if start:
        return recognise(net, start, info.get('size'), names)
    source = rows_of(checkpoint, [*fields, 'label'], block_size=getattr(net.config, 'block_size', 0))
    rows = np.arange(source.size) if lines else drawn(source, how_many(25))
    true, predicted, probability = classify(net, source, rows)
    right = sum(t == p for t, p in zip(true, predicted))
    told = f'{right:,} of {len(rows):,} right in {source.name}'
    if lines:
        with writing(out), open(out, 'w', encoding='utf-8') as file:
            for row, t, p, shares in zip(rows.tolist(), true, predicted, probability):
                file.write(json.dumps({'row': row, 'true': t, 'predicted': p,
                                       'probabilities': [round(share, 6) for share in shares]}) + '\n')
    else:
        images = source.batch(rows)['image']
        show(checkpoint, images, verdicts(images, true, predicted, map(max, probability), names), told)
    tta = getattr(net.config, 'tta', 'none')
    print(f'{told}, accuracy {right / len(rows):.4f}; test-time augmentation: {tta}')


# --- masks

def shaded(images, where, colour):
    """(n, C, H, W) uint8 pictures in colour, half of `colour` where (n, 1, H, W) booleans say so."""
    images = images[:, :3].expand(-1, 3, -1, -1).float()
    return torch.where(where, (images + torch.tensor(colour).view(3, 1, 1)) / 2, images).byte()


@torch.no_grad()
def segment(net, checkpoint):
    """Draw rows of a split, from left to right the picture, its mask, what is found and where that is wrong;
    or what is found on the picture `start`, read as large as those trained on and drawn as large as it is."""
    if start:
        image, _ = opened(start, net.config.channels)
        w, h = image.size
        ratio = min(checkpoint.get('info', {}).get('size', (h, w))) / min(h, w)
        small = picture.fitted(image, (round(h * ratio), round(w * ratio)))
        found = net.predict(torch.from_numpy(small)[None].to(device)).cpu()
        found = F.interpolate(found, (h, w), mode='bilinear') > 0.5
        image = torch.from_numpy(picture.fitted(image, (h, w)))[None]
        both = torch.cat([shaded(image, found, FOUND), shaded(image, ~found, (0, 0, 0))], 3)[0]
        print(f'{start}: {w} x {h}, read as {small.shape[2]} x {small.shape[1]}; '
              f'{found.float().mean():.1%} of it found')
        with writing(out):
            picture.Image.fromarray(both.permute(1, 2, 0).numpy()).save(out)
        return
    source = rows_of(checkpoint, ('image', 'mask'))
    rows = drawn(source, how_many(6, pictures=4))
    batch = source.batch(rows)
    image, true = batch['image'].cpu(), net.target(batch['mask']).cpu()
    found = net.predict(batch['image']).cpu() > 0.5
    wrong, sizes = found ^ true, found.sum((1, 2, 3)) + true.sum((1, 2, 3))
    dice = torch.where(sizes > 0, 1 - wrong.sum((1, 2, 3)) / sizes, 1.0)     # 2 both = sizes - wrong
    panels = [shaded(image, where, colour) for where, colour in
              ((torch.zeros_like(true), FOUND), (true, FOUND), (found, FOUND), (wrong, MISTAKE))]
    captions = [[line] for row, d, share in zip(rows, dice, wrong.float().mean((1, 2, 3)))
                for line in (f'row {row}', 'true', f'found, Dice {d:.3f}', f'wrong, {share:.1%} of pixels')]
    show(checkpoint, torch.stack(panels, 1).flatten(0, 1), captions,
         f'foreground {net.foreground}, mean Dice {dice.mean():.3f} of {len(rows)} of {source.name}', 4)


# --- images of a class

def another(label, n_class, generator):
    """For each of (B,) labels one of the n_class - 1 others, all equally likely."""
    step = torch.randint(1, n_class, label.shape, generator=generator, device=label.device)
    return (label + step) % n_class


def imagine(net, checkpoint):
    """Draw what `grid` says. New pictures, prior: a class in each row; style: a hand in each row, a class in
    each column. Of rows of a split, reconstruct and wrong_label: the picture and what is made of it with its
    own label or another; interpolate: in nine steps to some other picture of its class."""
    classes, columns, pairs = net.config.n_class, 0, []
    default, each = {'prior': (8, classes), 'style': (8, classes), 'interpolate': (5, 9)}.get(grid, (25, 1))
    n = how_many(default, each)
    names = checkpoint.get('info', {}).get('classes') or [*map(str, range(classes))]
    generator = torch.Generator(device).manual_seed(seed)
    if grid == 'prior':
        label, columns = torch.arange(classes, device=device).repeat_interleave(n), n
        images = net.sample(label, generator)
        captions = [[name] for name in names for _ in range(n)]
    elif grid == 'style':
        hand = torch.randn(n, net.config.latent, generator=generator, device=device)
        label, columns = torch.arange(classes, device=device).repeat(n), classes
        images = net.decode(hand.repeat_interleave(classes, 0), label)
        captions = [[name] for name in names] * n
    else:
        source = rows_of(checkpoint, ('image', 'label'))
        if num_samples > source.size:
            raise Refused(f'num_samples={n}: {source.name} has {source.size:,} rows')
        rows = drawn(source, n)
        image, label = source.batch(rows).values()
        captions = [[f'{names[t]}, row {row}'] for t, row in zip(label.tolist(), rows) for _ in range(each)]
        if grid == 'interpolate':
            rng, every = np.random.default_rng(seed), source.arrays['label'].cpu().numpy()
            others = [np.setdiff1d(np.flatnonzero(every == every[row]), row) for row in rows]
            ahead = np.array([rng.choice(of) if len(of) else row for of, row in zip(others, rows)])
            images = net.interpolate(image, source.batch(ahead)['image'], label, 9)
            images, columns = images.transpose(0, 1).flatten(0, 1), 9
        else:
            given = another(label, classes, generator) if grid == 'wrong_label' else label
            images = torch.cat([image, net.reconstruct(image, label, given)], 3)        # (n, C, H, 2 W)
        if grid == 'wrong_label':
            pairs = [{'true': t, 'given': g} for t, g in zip(label.tolist(), given.tolist())]
            captions = [[f'true {names[pair["true"]]} -> given {names[pair["given"]]}'] for pair in pairs]
    show(checkpoint, images, captions, grid, columns)
    if pairs:
        beside = Path(out).with_suffix('.json')
        with writing(beside):
            beside.write_text(json.dumps(pairs, indent=1) + '\n', encoding='utf-8')


def probe(z, label, n_class):
    """The linear map of z (n, d) to logits that tells labels (n,) best, but for a little decay: z -> (n,)."""
    mean, std = z.mean(0), z.std(0) + 1e-6
    weight = torch.zeros(z.size(1) + 1, n_class, device=z.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn='strong_wolfe')

    def logits(z):
        return F.pad((z - mean) / std, (0, 1), value=1.0) @ weight

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(z), label) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda z: logits(z).argmax(1)


@torch.no_grad()
def obey(net, checkpoint):
    """Tell how often the classifier `judge` sees the label that a picture was made with, and how well a
    linear map tells the label of a picture from its hand. Raises Refused for a judge of other data."""
    source, critic_of = rows_of(checkpoint, ('image', 'label')), run.read(run.find(judge))
    field = f'{source.name}.image'
    if critic_of.get('data', {}).get(field) != checkpoint['data'][field]:
        raise Refused(f'{judge} was trained on other data than {out_dir}, so it is no judge of it')
    critic, classes = configurator.build(critic_of, device), net.config.n_class
    if getattr(critic.config, 'n_class', 0) != classes or not hasattr(critic, 'logits'):
        raise Refused(f'{judge} is no classifier of {classes} classes')

    def seen(image):
        return critic.logits(image).argmax(1)

    generator = torch.Generator(device).manual_seed(seed)
    asked = torch.arange(classes, device=device).repeat_interleave(1000)
    new = torch.cat([seen(net.sample(label, generator)) for label in asked.split(250)])
    found = []
    for image, label in (source.batch(rows).values() for rows in source.evaluation(250)):
        given = another(label, classes, generator)
        made = net.reconstruct(image, label, given)
        found.append((label, given, seen(image), seen(made), net.encode(image, label, generator)))
    true, given, real, told, hand = map(torch.cat, zip(*found))
    train = rows_of(checkpoint, ('image', 'label'), 'train')
    known = [train.batch(rows) for rows in train.evaluation(250)[:40]]
    guess = probe(torch.cat([net.encode(**batch, generator=generator) for batch in known]),
                  torch.cat([batch['label'] for batch in known]), classes)
    shares = {f'the judge sees the class of a picture of {source.name}': real == true,
              'A: it sees the class asked for in a new picture': new == asked,
              'B: it sees the class given instead of the true one': told == given,
              '   it still sees the true one': told == true,
              'a linear map tells the class from the hand': guess(hand) == true}
    for what, hits in shares.items():
        print(f'{what.ljust(max(map(len, shares)))}  {hits.float().mean():.4f} of {len(hits):,}')


if __name__ == '__main__':
    settings = configurator.read(__file__, sys.argv[1:])
    globals().update(settings.knobs)
    most = {'num_samples': 10_000, 'max_new_tokens': 10**9, 'temperature': 1e9, 'top_k': 10**9, 'top_p': 1,
            'min_p': 1, 'seed': 2**63 - 1, 'beam': 1000, 'length_penalty': 10}
    problems = [f'{name} must be from 0 to {limit}, got {globals()[name]}' for name, limit in most.items()
                if not 0 <= globals()[name] <= limit]
    if not os.path.isdir(Path(out).parent):
        problems.append(f'out {out}: there is no such folder')
    if start and (split or bleu):
        problems.append('start is your own; split and bleu are for rows of the data set')
    if problems:
        raise Refused(*problems)
    file = run.find(out_dir)
    checkpoint = run.read(file)
    device, *_ = configurator.resolve(device)
    configurator.keep_memory()
    net = configurator.build(checkpoint, device)
    if hasattr(net, 'generate'):
        kind, make, endings = 'text', write, ()
    elif hasattr(net, 'encode') and hasattr(net, 'decode') and checkpoint['tokenizer']:
        kind, make, endings = 'translations', interpret, ('.txt',)
    elif hasattr(net, 'reconstruct'):
        kind, make, endings = 'images', obey if judge else imagine, ('.png',)
    elif hasattr(net, 'predict'):
        kind, make, endings = 'masks', segment, ('.png',)
    elif hasattr(net, 'logits') and hasattr(net.config, 'n_class'):
        kind, make, endings = 'classes', tell, ('.png', '.jsonl')
    else:
        raise Refused(f'{out_dir} makes neither text, translations, classes, masks nor images')
    groups = {name: key.group for name, key in configurator.declared(__file__).items()}
    foreign = [name for name, group in groups.items() if 'alone' in group and kind not in group]
    for where, useless, why in (
            (True, foreign, f'of no use to {out_dir}, which makes {kind}'),
            (judge, ['grid', 'out', 'num_samples'], 'of no use to a judge'),
            (start and kind != 'text', ['num_samples'], 'of no use to a picture of your own'),
            (beam and kind == 'translations', ['temperature', 'top_k', 'top_p', 'min_p'],
             'of use only where nothing is searched: --beam=0')):
        idle = [name for name in settings.given if name in useless]
        if where and idle:
            raise Refused(f'{", ".join(idle)}: {why}')
    if out and not out.endswith(endings):
        raise Refused(f'out must end in {" or in ".join(endings)}, got {out!r}')
    if out and start and kind == 'classes':
        raise Refused('start is one picture; out is for rows of the data set')
    if '.png' in endings:
        out = out or str(file.with_name(f'{grid}.png' if kind == 'images' else 'samples.png'))
    make(net, checkpoint)
