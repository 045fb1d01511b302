"""Checked overrides, the machine's best settings, and a trained model in one line.

The knobs of a script are its module-level assignments that carry a comment, and the fields of the chosen model's Config;
both are read from the source text, so that the declaration, its default, its type and its help are the same line.
A config file is parsed and never executed: `name = value`, where a value is a literal or arithmetic of numbers.

    python train.py config/train_shakespeare.py --max_iters=200 --n_layer=4    # the later one wins
    python train.py --help                                                     # every key, its default, its meaning
    python configurator.py --verify                                            # the doctor: what this machine offers
    model = configurator.load('out/shakespeare')                               # trained, in eval mode
"""
import ast, difflib, io, math, operator, os, sys, tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent

# what the doctor can be asked
verify = False      # also recompute the sha256 of every prepared data set


class Refused(Exception):
    """Something the user can mend: `lines` say what was given, what was expected and what to do; `code` is the exit code."""

    def __init__(self, *lines, code=2):
        super().__init__('\n'.join(lines))
        self.code = code


@dataclass
class Key:
    name: str
    default: object
    choices: tuple          # of a Literal; () where any value of the default's type is legal
    comment: str
    group: str
    line: int

    def convert(self, value, text=False):
        """`value`, from a config file or (text=True) as typed on a command line, as this key's type, or a ValueError."""
        if text and not isinstance(self.default, str) and not self.choices:
            try:
                value = evaluate(ast.parse(value.strip().capitalize() if type(self.default) is bool else value.strip(),
                                           mode='eval').body)
            except (SyntaxError, ValueError, RecursionError):
                pass        # still a string, and so refused just below
        if self.choices:
            for choice in self.choices:
                if (str(choice) == value if text else type(choice) is type(value) and choice == value):
                    return choice
            near = difflib.get_close_matches(str(value), map(str, self.choices), 1)
            raise ValueError(f'expected one of {", ".join(map(repr, self.choices))}, got {value!r}'
                             + f'; did you mean {near[0]!r}?' * len(near))
        want = type(self.default)
        number = type(value) in (int, float)
        if want is float and number:
            return float(value)
        if want is int and number and float(value).is_integer():
            return int(value)
        if type(value) is want:
            return value
        raise ValueError(f'expected {want.__name__}, as in {self.default!r}, got {value!r}')


@dataclass
class Settings:
    knobs: dict     # every knob of the script
    fields: dict    # the model's Config fields that were given
    given: dict     # key -> where it was given: 'config/x.py:3' or 'the command line'
    files: list     # the positional arguments


def declared(path, config=False):
    """The keys that a script (or, config=True, the `class Config` of a model file) declares: {name: Key}."""
    source = Path(path).read_text(encoding='utf-8')
    comments = {t.start[0]: t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    headings = {n: t.string.strip('# -') for n, t in comments.items() if t.line.startswith('# ')}
    body = ast.parse(source).body
    if config:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == 'Config')
    keys = {}
    for node in body:
        target = getattr(node, 'target', None) or getattr(node, 'targets', [None])[0]
        value = node.value if isinstance(target, ast.Name) and node.end_lineno in comments else None
        if not isinstance(value, (ast.Constant, ast.UnaryOp, ast.BinOp)):
            continue
        literal = isinstance(getattr(node, 'annotation', None), ast.Subscript)
        choices = ast.literal_eval(node.annotation.slice) if literal else ()
        group = next((headings[n] for n in sorted(headings, reverse=True) if n < node.lineno), '')
        keys[target.id] = Key(target.id, evaluate(value), choices if isinstance(choices, tuple) else (choices,),
                              comments[node.end_lineno].string.lstrip('# '), group, node.lineno)
    return keys


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow}


def evaluate(node):
    """The value of a literal or of + - * / // ** of numbers (finite, exponents at most 64); a ValueError for the rest."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool)):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = -evaluate(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = evaluate(node.left), evaluate(node.right)
        if {type(left), type(right)} - {int, float} or isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise ValueError('arithmetic is of numbers, with exponents of at most 64')
        try:
            value = OPERATORS[type(node.op)](left, right)
        except ArithmeticError as error:
            raise ValueError(str(error)) from None
    else:
        raise ValueError('is not a literal or + - * / // ** of numbers; config files are never executed')
    try:
        finite = math.isfinite(value)
    except (OverflowError, TypeError):      # an int beyond float's range; a complex number
        finite = False
    if not finite:
        raise ValueError('is not a finite number')
    return value


def parse(path):
    """The `name = value` lines of a config file: [(name, value, 'path:line')], and the problems met."""
    try:
        body = ast.parse(Path(path).read_text(encoding='utf-8-sig')).body
    except OSError as error:
        return [], [f'{path}: {error.strerror}; config files are in {ROOT / "config"}']
    except (SyntaxError, UnicodeError, ValueError, RecursionError) as error:
        return [], [f'{path}:{getattr(error, "lineno", 1)}: cannot be read: {getattr(error, "msg", error)}']
    found, problems = [], []
    for node in body:
        where = f'{path}:{node.lineno}'
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            continue
        if not isinstance(node, ast.Assign) or len(node.targets) > 1 or not isinstance(node.targets[0], ast.Name):
            problems.append(f'{where}: expected `name = value`; config files are parsed, never executed')
            continue
        try:
            found.append((node.targets[0].id, evaluate(node.value), where))
        except (ValueError, RecursionError) as error:
            problems.append(f'{where}: {node.targets[0].id} {error}')
    return found, problems


def read(script, argv, config=''):
    """Settings of `script` from its own defaults, config files (`config` if none is named, whose keys then count as defaults)
    and `--key=value`; the later wins.

    From here on a Refused ends the process in one line per problem. --help prints every key and exits. Raises Refused for
    all problems at once, each with where it stands, what was expected and the nearest legal key.
    """
    sys.excepthook = explain
    keys = declared(script)
    found, problems, files = [], [], []
    named = any(a.endswith('.py') for a in argv if a[:2] != '--')
    for argument in argv if named or not config else [str(config), *argv]:
        name, equals, value = argument[2:].partition('=')
        if argument in ('-h', '--help'):
            continue
        if argument[:2] == '--':
            found.append((name, value if equals else None, 'the command line'))
        elif argument.endswith('.py') and 'model' in keys:
            lines, more = parse(argument)
            found, problems = found + lines, problems + more
        files += [argument] * (argument[:2] != '--' and argument in argv)

    fields = {}
    if 'model' in keys:
        keys['model'].choices = tuple(sorted(p.stem for p in (ROOT / 'models').glob('[a-z]*.py')))
        model = next((v for n, v, _ in reversed(found) if n == 'model'), keys['model'].default)
        if model in keys['model'].choices:
            fields = declared(ROOT / 'models' / f'{model}.py', config=True)
    if '--help' in argv or '-h' in argv:
        print(usage(script, keys, fields))
        raise SystemExit(0)

    settings = Settings({k: key.default for k, key in keys.items()}, {}, {}, files)
    for name, value, where in found:
        key, text = keys.get(name) or fields.get(name), where == 'the command line'
        if not key:
            near = difflib.get_close_matches(name, [*keys, *fields], 1)
            problems.append(f'{where}: {name} is no key' + f'; did you mean {near[0]}?' * len(near))
        elif text and value is None and type(key.default) is not bool:
            problems.append(f'{where}: --{name} needs a value: --{name}={key.default}')
        else:
            try:
                value = True if value is None else key.convert(value, text)
                (settings.knobs if name in keys else settings.fields)[name] = value
                if named or text:
                    settings.given[name] = where
            except ValueError as error:
                problems.append(f'{where}: {name}: {error}')
    if problems:
        raise Refused(*problems, f'`python {Path(script).name} --help` shows every key')
    return settings


def usage(script, keys, fields):
    """The help text: the script's docstring, then every key in its group with default and comment."""
    lines, group = [ast.get_docstring(ast.parse(Path(script).read_text(encoding='utf-8')))], None
    model = [Key(**{**vars(key), 'group': 'of the model'}) for key in fields.values()]
    for key in [*keys.values(), *model]:
        if key.group != group:
            group = key.group
            lines += ['', f'{group}:']
        choices = ' | '.join(map(str, key.choices)) if len(key.choices) < 8 else ''
        lines.append(f'  --{key.name}={key.default}'.ljust(30) + f' {key.comment}' + f'  [{choices}]' * bool(choices))
    return '\n'.join(lines)


def explain(kind, error, trace):
    """The excepthook of every script: what the user can mend is a line and an exit code, a bug is a traceback."""
    rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
    if isinstance(error, Refused):
        print('\n'.join(f'{rank}{line}' for line in str(error).split('\n')), file=sys.stderr, flush=True)
        raise SystemExit(error.code)
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    sys.__excepthook__(kind, error, trace)


def resolve(device='auto', dtype='auto', compile='auto'):
    """The settings that fit this machine, and why: (device, dtype, compile, reasons). Raises Refused for an absent device."""
    import torch
    gpu, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    why = {}
    if device == 'auto':
        device = 'cuda' if gpu else 'mps' if mps else 'cpu'
        why['device'] = 'found' if device != 'cpu' else 'no GPU found'
    kind = device.split(':')[0]
    if kind not in ('cpu', 'cuda', 'mps') or kind == 'cuda' and not gpu or kind == 'mps' and not mps:
        raise Refused(f'device {device!r} is not here; this machine has cpu{", cuda" * gpu}{", mps" * mps}')
    if dtype == 'auto':
        native = (torch.cuda.is_bf16_supported(including_emulation=False) if kind == 'cuda' else
                  kind == 'cpu' and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()))
        dtype = 'bfloat16' if native else 'float16' if kind == 'cuda' else 'float32'
        why['dtype'] = 'native here' if native else 'no native bfloat16'
    if compile == 'auto':
        from torch.utils._triton import has_triton
        compile = kind == 'cuda' and has_triton()
        why['compile'] = 'triton is here' if compile else 'no triton' if kind == 'cuda' else \
            f'takes a minute and gains a tenth on {kind}'
    chosen = {'device': device, 'dtype': dtype, 'compile': compile}
    return device, dtype, compile, ', '.join(f'{k} {v} ({why.get(k, "as asked")})' for k, v in chosen.items())


def build(checkpoint, device='cpu'):
    """The checkpoint's model with its weights, in eval mode on `device`. Raises Refused where code and weights do not fit."""
    from importlib import import_module
    keys, fields = checkpoint['keys'], checkpoint['config']
    path = ROOT / 'models' / f'{keys["model"]}.py'
    if not path.exists():
        raise Refused(f'the checkpoint is of a model {keys["model"]!r}, for which there is no {path}')
    module = import_module(f'models.{keys["model"]}')
    unknown = sorted(set(fields) - set(declared(path, config=True)))
    if unknown:
        raise Refused(f'the checkpoint has Config fields that models/{keys["model"]}.py lacks: {", ".join(unknown)}')
    model = module.Model(module.Config(**fields))
    fit(model, checkpoint['model'])
    return model.to(device).eval()


def fit(model, weights, whole=True):
    """Load `weights` into `model`. Raises Refused with the names and shapes that do not fit; whole=False: loads what does and
    returns the lines about the rest."""
    have = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in weights.items()}
    wrong = [f'{name}: the model has {have.get(name, "none")}, the checkpoint {given.get(name, "none")}'
             for name in sorted(have.keys() | given.keys()) if have.get(name) != given.get(name)]
    if wrong and whole:
        raise Refused(f'{len(wrong)} tensors do not fit:', *wrong[:10], *['...'] * (len(wrong) > 10))
    model.load_state_dict({name: t for name, t in weights.items() if have.get(name) == given[name]}, strict=False)
    return wrong


def load(path, device='cpu'):
    """A trained model, in eval mode, from a run folder (its best.pt, else last.pt) or a .pt file."""
    import run
    return build(run.read(run.find(path)), device)


def doctor():
    """What this machine offers and what to run next, a line each."""
    import platform, shutil, socket, threading
    import torch
    import data
    *_, reasons = resolve()
    reached = []
    probe = threading.Thread(daemon=True, target=lambda: reached.append(    # name look-up has no time limit of its own
        socket.create_connection(('raw.githubusercontent.com', 443), 1).close()))
    threading.excepthook = lambda args: None                                # no network is an answer, not an error
    probe.start()
    print(f'python    {platform.python_version()} on {platform.system()} {platform.machine()}')
    print(f'torch     {torch.__version__}, {torch.get_num_threads()} threads'
          + ''.join(f', {torch.cuda.get_device_name(i)}' for i in range(torch.cuda.device_count())))
    print(f'settings  {reasons}')
    print(f'compiler  {next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cl"))), "none: --compile=True needs one")}')
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        print(f'memory    {os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30:.1f} GiB')
    print(f'disk      {shutil.disk_usage(ROOT).free / 2**30:.1f} GiB free')
    for folder in sorted(p.parent for p in (ROOT / 'data').glob('*/prepare.py')):
        state = 'not prepared yet'
        if (folder / 'meta.json').exists():
            try:
                data.check(folder, hashes=verify)
                state = 'ready' + ', hashes verified' * verify
            except Refused as error:
                state = f'damaged: {error}'
        print(f'data      {folder.name}: {state}')
    probe.join(1.2)
    print(f'mirror    {os.environ.get("DATA_MIRROR") or "DATA_MIRROR is not set"}; network '
          f'{"reached" if reached else "not reached: `python train.py` needs none"}')
    print('next      python train.py')


if __name__ == '__main__':
    globals().update(read(__file__, sys.argv[1:]).knobs)
    doctor()
