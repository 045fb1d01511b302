"""Checked overrides, the machine's best settings, and a trained model in one line.

The knobs of a script are its module-level assignments that carry a comment, and the fields of the model's
Config. Both are read from the source text: name, default, type and help are one line. A config file is parsed
and never executed: `name = value`, where a value is a literal or arithmetic of numbers.

    python train.py config/train_shakespeare.py --max_iters=200 --n_layer=4     # the later one wins
    python train.py --help                                                      # every key and its meaning
    python configurator.py --verify                                             # the doctor, hashes included
    model = configurator.load('out/shakespeare')                                # trained, in eval mode
"""
import ast, contextlib, difflib, errno, math, operator, os, sys, textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
COMMAND_LINE = 'the command line'

# what the doctor can be asked
verify = False      # also recompute the sha256 of every prepared data set
threads = 0         # of the CPU whose speed is measured; 0: as torch chooses


class Refused(Exception):
    """A mistake the user can mend: `lines` say what was given, what was expected, what to do."""

    def __init__(self, *lines, code=2):
        super().__init__('\n'.join(lines))
        self.code = code


def nearest(word, words):
    """'; did you mean ...?' where one of `words` is near, else nothing."""
    near = difflib.get_close_matches(str(word), map(str, words), 1)
    return f'; did you mean {near[0]}?' if near else ''


@dataclass
class Key:
    name: str
    default: object
    choices: tuple      # of a Literal; () where any value of the default's type is legal
    comment: str
    group: str

    def convert(self, value, text=False):
        """`value`, from a config file or (text=True) as typed on a command line, in this key's type. Raises
        ValueError."""
        want = type(self.default)
        if self.choices:
            for choice in self.choices:
                if str(choice) == value if text else (type(choice), choice) == (type(value), value):
                    return choice
            expected = ', '.join(map(repr, self.choices))
            raise ValueError(f'expected one of {expected}, got {value!r}{nearest(value, self.choices)}')
        if text and want is not str:
            try:
                value = evaluate(ast.parse(value.strip(), mode='eval').body)
            except UNREADABLE:
                pass        # still a string, and so refused just below
        if type(value) is want:
            return value
        if type(value) in (int, float) and (want is float or want is int and value == int(value)):
            return want(value)
        raise ValueError(f'expected {want.__name__}, as in {self.default!r}, got {value!r}')


@dataclass
class Settings:
    knobs: dict     # every knob of the script
    fields: dict    # the model's Config fields that were given
    given: dict     # key -> where it was given: 'config/x.py:3' or 'the command line'
    files: list     # the positional arguments


def declared(path, config=False):
    """The keys that a script (config=True: the `class Config` of a model file) declares: {name: Key}."""
    source = Path(path).read_text(encoding='utf-8')
    lines, body = source.split('\n'), ast.parse(source).body
    if config:
        body = next(node.body for node in body if getattr(node, 'name', '') == 'Config')
    keys = {}
    for node in body:
        match node:
            case ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name('Literal'), literal), value):
                choices = tuple(map(ast.literal_eval, getattr(literal, 'elts', [literal])))
            case ast.AnnAssign(ast.Name(name), _, value) | ast.Assign([ast.Name(name)], value):
                choices = ()
            case _:
                continue
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset:].decode()       # columns are bytes
        comment = rest.partition('#')[2].strip()
        if comment and isinstance(value, (ast.Constant, ast.UnaryOp, ast.BinOp)):
            headings = [line for line in lines[:node.lineno] if line.startswith('# ')] or ['options']
            group = 'of the model' if config else headings[-1].strip('# -')
            keys[name] = Key(name, evaluate(value), choices, comment, group)
    return keys


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
             ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.USub: operator.neg}
UNREADABLE = SyntaxError, ValueError, RecursionError, MemoryError      # what ast.parse and evaluate may raise


def evaluate(node):
    """The value of a literal or of + - * / // ** of numbers, finite, exponents at most 64. Or ValueError."""
    try:
        match node:
            case ast.Constant(str() | bool()):
                return node.value
            case ast.Constant(int() | float() as value):
                pass
            case ast.UnaryOp() | ast.BinOp() if type(node.op) in OPERATORS:
                operands = [evaluate(x) for x in ast.iter_child_nodes(node) if isinstance(x, ast.expr)]
                large = isinstance(node.op, ast.Pow) and abs(operands[1]) > 64
                if large or not {*map(type, operands)} <= {int, float}:
                    raise ValueError('is not arithmetic of numbers, with exponents of at most 64')
                value = OPERATORS[type(node.op)](*operands)
            case _:
                raise ValueError('is not a literal or arithmetic of numbers; nothing is ever executed')
        if math.isfinite(value):
            return value
    except (ArithmeticError, TypeError):    # 1 / 0, an int beyond all floats, a complex number
        pass
    raise ValueError('is not a finite number')


def parse(path):
    """The lines of a config file: [(name, value, 'path:line')], and a list of the problems met."""
    try:
        body = ast.parse(Path(path).read_text(encoding='utf-8-sig')).body
    except OSError as error:
        return [], [f'{path}: {error.strerror}; config files are in {ROOT / "config"}']
    except UNREADABLE as error:
        line, reason = getattr(error, 'lineno', None) or 1, getattr(error, 'msg', error)
        return [], [f'{path}:{line}: cannot be read: {reason}']
    found, problems = [], []
    for node in body:
        where = f'{path}:{node.lineno}'
        match node:
            case ast.Expr(ast.Constant(str())):
                pass            # a docstring
            case ast.Assign([ast.Name(name)], value):
                try:
                    found.append((name, evaluate(value), where))
                except UNREADABLE as error:
                    problems.append(f'{where}: {name} {error}')
            case _:
                problems.append(f'{where}: expected `name = value`; config files are never executed')
    return found, problems


def read(script, argv, config='', words=False):
    """Settings of `script` from its defaults, then config files and `--key=value` in their order. Unless a
    config file or model is named, the keys of `config` count as defaults. `words`: other arguments are legal.

    From here on a Refused ends the process with its lines and exit code. --help prints every key and exits.
    Raises Refused for all problems at once: where each stands, what was expected, the nearest legal key."""
    sys.excepthook = explain
    keys, fields = declared(script), {}
    files = [a for a in argv if a[:1] != '-']
    configs = [a for a in files if a.endswith('.py')] if 'model' in keys else []
    default = config and not configs and not any(a.startswith('--model=') for a in argv)
    found, problems = parse(config) if default else ([], [])
    for argument in argv:
        name, equals, value = argument[2:].partition('=')
        if argument in configs:
            lines, more = parse(argument)
            found, problems = found + lines, problems + more
        elif argument in ('-h', '--help') or words and argument in files:
            continue
        elif argument[:2] == '--':
            found.append((name, value if equals else None, COMMAND_LINE))
        else:
            problems.append(f'{argument!r}: expected --key=value' + ' or a config file' * bool(config))
    if 'model' in keys:
        keys['model'].choices = models()
        model = {name: value for name, value, _ in found}.get('model', keys['model'].default)
        if model in keys['model'].choices:
            fields = declared(ROOT / 'models' / f'{model}.py', config=True)
        else:       # one problem is enough
            found = [line for line in found if line[0] in keys]

    settings = Settings({name: key.default for name, key in keys.items()}, {}, {}, files)
    for name, value, where in found:
        key = keys.get(name) or fields.get(name)
        if not key:
            problems.append(f'{where}: {name} is no key{nearest(name, [*keys, *fields])}')
        elif value is None and type(key.default) is not bool:
            problems.append(f'{where}: --{name} needs a value: --{name}={key.default}')
        else:
            try:
                value = True if value is None else key.convert(value, text=where == COMMAND_LINE)
            except ValueError as error:
                problems.append(f'{where}: {name}: {error}')
                continue
            (settings.knobs if name in keys else settings.fields)[name] = value
            if not default or where == COMMAND_LINE:
                settings.given[name] = where
    # A length on the command line replaces every length in a config; its `prepare` is for its own data set.
    for name, idle in (('max_iters', 'epochs'), ('max_iters', 'max_minutes'), ('epochs', 'max_minutes'),
                       ('dataset', 'prepare')):
        if idle in keys and settings.given.get(name) == COMMAND_LINE != settings.given.get(idle):
            settings.knobs[idle], settings.given[idle] = keys[idle].default, COMMAND_LINE
    if '--help' in argv or '-h' in argv:
        print(usage(script, keys | fields, settings.knobs | settings.fields))
        raise SystemExit(0)
    if problems:
        raise Refused(*problems, f'`python {os.path.relpath(script)} --help` shows every key')
    return settings


def models():
    """The names of the files in models/."""
    return tuple(sorted(path.stem for path in (ROOT / 'models').glob('[a-z]*.py')))


def usage(script, keys, values):
    """The help text: the script's docstring, then every key in its group, with the value it would have."""
    lines, group = [ast.get_docstring(ast.parse(Path(script).read_text(encoding='utf-8'))) or ''], None
    for key in keys.values():
        if key.group != group:
            group = key.group
            lines += ['', f'{group}:']
        choices = f'  [{" | ".join(map(str, key.choices))}]' if key.choices else ''
        value = values.get(key.name, key.default)
        lines.append(f'  --{key.name}={value}'.ljust(30) + f' {key.comment}{choices}')
    return '\n'.join(lines)


def explain(kind, error, trace):
    """The excepthook of every script: what the user can mend is told in words, a bug with its traceback."""
    if isinstance(error, Refused):
        rank = f'[rank {os.environ["RANK"]}] ' if 'RANK' in os.environ else ''
        print(textwrap.indent(str(error), rank), file=sys.stderr, flush=True)
        raise SystemExit(error.code)
    if issubclass(kind, KeyboardInterrupt):
        raise SystemExit(130)
    if issubclass(kind, BrokenPipeError):       # nobody reads on: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0)
    if issubclass(kind, MemoryError) or 'out of memory' in str(error) or 'allocate memory' in str(error):
        while trace and 'micro_batch_size' not in trace.tb_frame.f_globals:
            trace = trace.tb_next
        advice = ['  a smaller model, or fewer, shorter or smaller rows']
        if trace:       # train.py, which has these keys
            half = max(trace.tb_frame.f_globals['micro_batch_size'] // 2, 1)
            advice = [f'  --micro_batch_size={half}, the same run in smaller parts', '  --dtype=bfloat16',
                      *advice]
        first = str(error).split('\n')[0][:200]
        print(f'out of memory: {first}', 'what is saved is intact; try', *advice, sep='\n', file=sys.stderr)
        raise SystemExit(5)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        print(f'{error.filename or "a file"} cannot be written: {error.strerror}', file=sys.stderr)
        raise SystemExit(4)
    sys.__excepthook__(kind, error, trace)


def devices():
    """The kinds of device that this machine has, the fastest last."""
    import torch
    return ['cpu', *['cuda'] * torch.cuda.is_available(), *['mps'] * torch.backends.mps.is_available()]


def resolve(device='auto', dtype='auto', compile='auto'):
    """The settings that fit this machine, and why: (device, dtype, compile, words). Raises Refused if the
    device is not here."""
    import torch
    here, why = devices(), {}
    if device == 'auto':
        device = here[-1]
        why['device'] = 'no GPU found' if device == 'cpu' else 'found'
    kind = device.split(':')[0]
    count = torch.cuda.device_count() if kind == 'cuda' else 1
    numbered = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if device == 'cuda' else device
    if kind not in here or numbered not in (kind, *(f'{kind}:{i}' for i in range(count))):
        raise Refused(f'device {device!r} is not here; this machine has {", ".join(here)}')
    if dtype == 'auto':
        native = (torch.cuda.is_bf16_supported(including_emulation=False) if kind == 'cuda' else kind == 'cpu'
                  and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()))
        dtype = 'bfloat16' if native else 'float16' if kind == 'cuda' else 'float32'
        why['dtype'] = 'native here' if native else 'no native bfloat16'
    if compile == 'auto':
        from torch.utils._triton import has_triton
        compile = kind == 'cuda' and has_triton()
        why['compile'] = ('triton is here' if compile else 'no triton' if kind == 'cuda' else
                          f'takes a minute and gains little on {kind}')
    chosen = {'device': device, 'dtype': dtype, 'compile': compile}
    return *chosen.values(), ', '.join(f'{k} {v} ({why.get(k, "as asked")})' for k, v in chosen.items())


def settle(device, dtype, threads=0):
    """What torch is told once, before anything runs: so many threads of a CPU (0: as it chooses), and on CUDA
    TF32 only where float32 is not asked for, the fastest convolutions for the shapes that come, and attention
    without cuDNN, which plans anew for every length and, in torch 2.11 to 2.13, may give gradients of NaN
    under a mask (pytorch issue 196678)."""
    import torch
    torch.set_num_threads(threads or torch.get_num_threads())
    keep_memory()
    if device.startswith('cuda'):
        torch.set_float32_matmul_precision('highest' if dtype == 'float32' else 'high')
        torch.backends.cudnn.allow_tf32 = dtype != 'float32'
        torch.backends.cudnn.benchmark = True           # train.py's deterministic unsets it
        torch.backends.cuda.enable_cudnn_sdp(False)


def keep_memory(yes=True):
    """Let glibc keep the memory that large tensors leave rather than give it back and map it, page by page,
    anew in each step, which on a CPU takes convolutional nets much of their time. Elsewhere nothing happens.
    yes=False: as it is by itself, once its thresholds have grown as far as they do."""
    import ctypes
    if mallopt := getattr(ctypes.CDLL(None), 'mallopt', None):
        mallopt(-3, 2**30 if yes else 2**25)            # M_MMAP_THRESHOLD, bytes; numbers as in malloc.h
        mallopt(-1, 2**31 - 1 if yes else 2**26)        # M_TRIM_THRESHOLD
        mallopt(-2, 2**29 if yes else 2**17)            # M_TOP_PAD


def build(checkpoint, device='cpu'):
    """The checkpoint's model with its weights, on `device`, in eval mode. Raises Refused if the code does not
    fit the checkpoint."""
    from importlib import import_module
    name, fields = checkpoint['keys']['model'], checkpoint['config']
    if name not in models():
        raise Refused(f'the checkpoint is of a model {name!r}; there are {", ".join(models())}')
    module = import_module(f'models.{name}')
    try:
        config = module.Config(**fields)
    except (TypeError, ValueError) as error:
        raise Refused(f'the checkpoint does not fit the Config of models/{name}.py: {error}')
    model = module.Model(config)
    fit(model, checkpoint['model'])
    return model.to(device).eval()


def fit(model, weights, whole=True):
    """Load `weights` into `model`. Raises Refused with the names and shapes that do not fit; with whole=False
    loads what does, if anything, and returns the lines about the rest."""
    have, given = ({name: tuple(t.shape) for name, t in of.items()} for of in (model.state_dict(), weights))
    wrong = [f'{name}: the model has {have.get(name, "none")}, the checkpoint {given.get(name, "none")}'
             for name in sorted(have.keys() | given.keys()) if have.get(name) != given.get(name)]
    fitting = {name: t for name, t in weights.items() if have.get(name) == given[name]}
    if wrong and (whole or not fitting):
        raise Refused(f'{len(wrong)} tensors do not fit:', *wrong[:10], *['...'] * (len(wrong) > 10))
    model.load_state_dict(fitting, strict=False)
    return wrong


def load(path, device='cpu'):
    """A trained model, in eval mode, from a run folder (its best.pt, else last.pt) or a .pt file."""
    import run
    return build(run.read(run.find(path)), device)


if __name__ == '__main__':
    import configurator     # not this __main__: its Refused is the one that is raised
    from core import machine
    options = configurator.read(__file__, sys.argv[1:]).knobs
    machine.doctor(ROOT, options['threads'], options['verify'])
