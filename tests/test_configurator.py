"""Checked overrides: what each option takes, what is an error and which, and that no input is executed."""
import ast, dataclasses, importlib, os, platform, re, shutil, subprocess, sys
import tracemalloc

import pytest
import torch

import configurator
import data
from configurator import ROOT, parse_options, read
from conftest import TINY
from core import doctor, errors, machine
from core.checkpoint import build_model, find_checkpoint, load, load_checkpoint, load_weights, save_checkpoint
from core.errors import UserError

SCRIPT = '''"""What the script is for."""
from typing import Literal

# --- the first group
n = 3           # how many
x = 0.5         # how much
name = 'a'      # what it is called
flag = False    # whether
# --- the second group
mode: Literal['auto', True, False] = 'auto'     # when
kind: Literal['one', 'two'] = 'one'             # which
model = 'gpt'   # whose Config fields are keys too

hidden = 7
LIMIT = [1]     # not an option
'''
SCRIPTS = sorted(path.name for path in ROOT.glob('*.py') if '__main__' in path.read_text(encoding='utf-8'))
MODELS = sorted(path.stem for path in (ROOT / 'models').glob('[a-z]*.py'))
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'config').glob('*.py'))


@pytest.fixture
def given(tmp_path, monkeypatch):
    """given('n = 4', '--x=1'): the Settings of a small script; what has no dashes is a config file's text."""
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)      # which read sets
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'script.py').write_text(SCRIPT)

    def given(*argv):
        if argv and not argv[0].startswith('-'):
            (tmp_path / 'config.py').write_text(argv[0], encoding='utf-8')
            argv = 'config.py', *argv[1:]
        return read('script.py', list(argv))
    return given


def errors_of(given, *argv):
    """Return the lines of the UserError that these arguments raise."""
    with pytest.raises(UserError) as error:
        given(*argv)
    assert error.value.code == 2
    return str(error.value).split('\n')


# --- what an option takes

@pytest.mark.parametrize('argument, value', [
    ('--n=4', 4), ('--n=-3', -3), ('--n=1e4', 10_000), ('--n=2.0', 2), ('--n= 5 ', 5), ('--n=1_000', 1000),
    ('--n=2**10', 1024), ('--n=7//2', 3), ('--n=4/2', 2), ('--n=2+3*4-1', 13), ('--n=2**3**2', 512),
    ('--n=-2**2', -4), ('--n=(1+1)*3', 6), ('--x=3', 3.0), ('--x=1/3', 1 / 3), ('--x=1e-4', 1e-4),
    ('--x=-2', -2.0), ('--x=.5', 0.5), ('--x=2**-64', 2.0**-64), ('--name=123', '123'),
    ('--name=True', 'True'), ('--name=', ''), ('--name=a=b', 'a=b'), ("--name='q'", "'q'"),
    ('--name= a ', ' a '), ('--name=1/2', '1/2'), ('--name=--n=3', '--n=3'), ('--flag=True', True),
    ('--flag=False', False), ('--flag', True),
    ('--mode=True', True), ('--mode=False', False), ('--mode=auto', 'auto'), ('--kind=two', 'two'),
    ('--n_layer=5', 5), ('--dropout=0', 0.0), ('--pos=none', 'none')])
def test_text_on_the_command_line_is_read_by_the_type_of_its_option(given, argument, value):
    settings, key = given(argument), argument[2:].split('=')[0]
    found = settings.options[key] if key in settings.options else settings.fields[key]
    assert (found, type(found)) == (value, type(value))
    assert settings.given == {key: 'the command line'}


@pytest.mark.parametrize('line, value', [
    ('n = 4', 4), ('n = 1e4', 10_000), ('n = 2 ** 3 ** 2', 512), ('n = 7 // 2', 3), ('n = -(2 + 1)', -3),
    ('x = 1', 1.0), ('x = 3e-4 * 2', 6e-4), ('x = (1 + 2) / 4', 0.75), ("name = '5'", '5'), ("name = ''", ''),
    ('flag = True', True), ('mode = True', True), ('mode = False', False), ("mode = 'auto'", 'auto'),
    ("kind = 'two'", 'two'), ('n_embd = 2**6', 64), ('dropout = 0', 0.0), ("pos = 'none'", 'none')])
def test_a_value_in_a_config_file_is_of_the_type_of_its_option(given, line, value):
    settings, key = given(f'"""Docstring."""\n\n# comment\n{line}   # why'), line.split()[0]
    found = settings.options[key] if key in settings.options else settings.fields[key]
    assert (found, type(found)) == (value, type(value))
    assert settings.given == {key: 'config.py:4'}


@pytest.mark.parametrize('argument', [
    '--n=1.5', '--n=True', '--n=abc', '--n=', '--n', '--n=1e400', '--n=nan', '--n=inf', '--n="5"', '--n=None',
    '--n=[1]', '--n=1 2', '--n=10**65', '--n=2**-65', '--n=9**9**9', '--n=(2**64)**64',
    '--n=((2**64)**64)**64', '--n=1/0', '--n=1//0', "--n=-'a'", '--n=-True', '--n=True+1', '--n=x', '--n=1j',
    '--n=len("abc")', '--n=__import__("os").getpid()', '--n=' + '(' * 1000 + '1' + ')' * 1000,
    '--n=' + '-' * 10**5 + '1', '--n=' + '1+' * 10**5 + '1', '--n=' + '9' * 5000, '--n=0x' + 'f' * 5000,
    '--n=\x00', '--x=nan', '--x=inf', '--x=-inf', '--x=1e999', '--x=1e308*10', '--x=0.0**-1', '--x=(-8)**0.5',
    '--x=True', '--x=2j', '--x=', '--x', '--x=1,5', '--flag=1', '--flag=0', '--flag=yes', '--flag=',
    '--flag=true', '--flag=None', '--mode=maybe', '--mode=1', '--mode=', '--mode', '--kind=One',
    '--kind=three', '--kind=', '--name', '--n_layer=1.5', '--pos=rotary'])
def test_text_of_another_type_is_an_error_with_what_was_expected(given, argument):
    line, key = errors_of(given, argument)[0], argument[2:].split('=')[0]
    assert line.startswith('the command line: ') and key in line
    assert re.search('expected|needs a value', line)


@pytest.mark.parametrize('line', [
    'name = 5', 'name = True', 'flag = 1', "flag = 'True'", "n = '5'", 'n = 1.5', 'n = None', 'n = True',
    'x = True', "x = '1'", "mode = 'True'", 'mode = 1', 'mode = 0', "kind = 'three'", 'kind = 1', 'n = [1]',
    'n = (1,)', 'n = {}', 'n = {1}', 'n = ...', 'n = int(3)', "name = f'{1}'", "name = f'a'", 'n = lambda: 1',
    'n = x', 'n = a.b', 'n = (y := 3)', 'n, x = 1, 2', '*n, = 1', 'n = x = 1', 'n += 1', 'n: int = 1',
    'n[0] = 1', 'a.n = 1', 'import os', 'from os import path', 'del n', 'if True: n = 1', 'for n in []: pass',
    'while True: pass', 'def f(): pass', 'class A: pass', 'print(1)', 'assert False', 'raise SystemExit',
    'with open("x"): pass', 'n = 1 if True else 2', 'n = not True', 'n = 5 % 3', 'n = 1 << 3', 'n = ~3',
    'n = [1][0]', 'n = [i for i in [1]]', 'n = True and 1', 'n = 1 < 2', 'x = 1e999', 'x = 1e308 * 10',
    'x = 1 / 0', 'n = 1 // 0', 'x = 0.0 ** -1', 'x = (-8) ** 0.5', 'x = 2j', 'n = 2 ** 65', 'n = 2 ** -65',
    'n = 9 ** 9 ** 9', 'n = (2 ** 64) ** 64', "name = 'a' * 3", "name = 'a' + 'b'", "name = -'a'", "n = -'a'",
    'n = -True', 'n = True + 1', "name = b'a'", 'n = await x', 'n = yield', 'nn = 3', 'N = 3', '__name__ = 3',
    'hidden = 8', 'LIMIT = 1', 'dropout = 1, 5'])
def test_a_line_that_is_not_a_name_and_a_literal_is_an_error_with_its_line(given, line):
    first, *_ = errors_of(given, f'x = 1\n{line}\n')
    assert first.startswith('config.py:2: ')


def test_nothing_is_executed(given, tmp_path, launch):
    touch = f'open({str(tmp_path / "touched")!r}, "w")'
    lines = [touch, f'n = {touch}', f'name = f"{{{touch}}}"', f'@{touch}\ndef f(): pass',
             f'def f(a={touch}): pass', f'x = [{touch} for _ in [1]]',
             f'import os; os.system("touch {tmp_path}/touched")', f'flag: {touch} = True',
             f'class A:\n    {touch}', f'n = {touch} if True else 1', f'with {touch}: pass',
             f'x = (lambda: {touch})()']
    for line in lines:
        errors_of(given, line)
        for option in 'n', 'flag', 'mode':
            errors_of(given, f'--{option}={line}')
        assert given(f'--name={line}').options['name'] == line
    (tmp_path / 'hostile.py').write_text('\n'.join(lines))
    code, text = launch('train.py', tmp_path / 'hostile.py', f'--max_iters={touch}',
                        f'--out_dir={tmp_path}/run')
    assert code == 2 and 'Traceback' not in text, text
    assert not (tmp_path / 'touched').exists() and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('value', ["'a' * 10**8", "10**8 * 'a'", "'a' * 10**4 * 10**4"])
def test_arithmetic_of_text_is_an_error_before_it_is_done(given, value):
    tracemalloc.start()
    errors_of(given, f'name = {value}'), errors_of(given, f'--n={value}')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


# --- in which words

def test_all_problems_are_reported_at_once_each_with_its_place_and_the_nearest_option(given):
    lines = errors_of(given, "n = 1.5\nnam = 'a'\n\nkind = 'tow'\nimport os\n", '--flg=True', '--x=a',
                      '--n_leyer=2', '--zzz=1')
    for start, *words in (
            ('config.py:1: n', 'expected int', '1.5'), ('config.py:2: nam', 'did you mean name'),
            ('config.py:4: kind', "'one', 'two'", "'tow'", 'did you mean'), ('config.py:5: ', 'name = value'),
            ('the command line: flg', 'did you mean flag'), ('the command line: x', 'expected float', "'a'"),
            ('the command line: n_leyer', 'did you mean n_layer'),
            ('the command line: zzz', 'not an option')):
        found = [line for line in lines if line.startswith(start)]
        assert len(found) == 1 and all(word in found[0] for word in words), start
    assert len(lines) == 9 and '--help' in lines[-1]


def test_a_script_prints_one_line_for_each_problem_and_writes_nothing(launch, tmp_path):
    code, text = launch('train.py', '--lerning_rate=1', '--max_iters=many', f'--out_dir={tmp_path}/run')
    assert code == 2 and 'did you mean learning_rate?' in text and len(text.splitlines()) == 3, text
    assert not (tmp_path / 'run').exists()


def test_a_value_needs_an_equals_sign(given):
    assert 'the command line: --n needs a value: --n=3' in errors_of(given, '--n', '5')


@pytest.mark.parametrize('argv', [
    ['max_iters=5'], ['-max_iters=5'], ['config/train_stdlib'], ['--deterministic', 'False'], ['--']])
def test_an_argument_that_is_neither_an_option_nor_a_config_is_an_error(launch, toy, tmp_path, argv):
    more = [f'--dataset={toy}', f'--out_dir={tmp_path}/run', '--max_iters=1', *argv]
    code, text = launch('train.py', *TINY, *more)
    assert code == 2 and 'Traceback' not in text, text
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('script', ['sample.py', 'configurator.py', 'data/stdlib/prepare.py'])
def test_an_argument_of_a_script_that_takes_none_is_an_error(launch, tmp_path, script):
    code, text = launch(script, 'out/shakespeare',
                        env={'PATCH': 'mirror.elsewhere', 'ELSEWHERE': str(tmp_path)})
    assert code == 2 and 'out/shakespeare' in text, text


def test_a_config_file_that_is_missing_or_not_text_is_an_error_with_its_name(given, tmp_path):
    assert 'missing.py: No such file' in errors_of(given, '--n=1', 'missing.py')[0]
    (tmp_path / 'folder.py').mkdir()
    assert errors_of(given, '--n=1', 'folder.py')[0].startswith('folder.py: ')
    for raw in b'name = "\xe9"', b'n = 1\x00', 'n = 3'.encode('utf-16'):
        (tmp_path / 'bytes.py').write_bytes(raw)
        assert errors_of(given, '--n=1', 'bytes.py')[0].startswith('bytes.py:1: ')


@pytest.mark.parametrize('source, line', [
    ('n = 1\nx = = 2\n', 2), ('n = (1\n', 1), ('n = 1\n  x = 2\n', 2), ("name = 'a\n", 1), ('n 3', 1),
    ('n = 1\n\n\nx = 1 1\n', 4), ('n = ' + '(' * 1000, 1), ('n: 3: 4', 1),
    ('n = ' + '-' * 10**5 + '1', 1)])
def test_a_syntax_error_is_reported_with_its_line(given, source, line):
    assert errors_of(given, source)[0].startswith(f'config.py:{line}: ')


def test_a_config_file_may_be_empty_have_a_bom_and_any_line_end(given, tmp_path):
    assert given('').given == {}
    (tmp_path / 'windows.py').write_bytes(b'\xef\xbb\xbf"""Doc."""\r\nn = 4\r\nx = 2\r\n')
    settings = read('script.py', ['windows.py'])
    assert settings.options['n'] == 4 and settings.given == {'n': 'windows.py:2', 'x': 'windows.py:3'}


def test_the_later_wins(given, tmp_path):
    (tmp_path / 'a.py').write_text('n = 1\nx = 1\nn_layer = 1\n')
    (tmp_path / 'b.py').write_text('n = 2\nn_layer = 2\nn_layer = 3\n')
    one = read('script.py', ['a.py', 'b.py', '--n=3'])
    assert (one.options['n'], one.options['x'], one.fields) == (3, 1.0, {'n_layer': 3})
    assert one.given == {'n': 'the command line', 'x': 'a.py:2', 'n_layer': 'b.py:3'}
    assert one.files == ['a.py', 'b.py']
    assert read('script.py', ['--n=3', 'b.py', 'a.py']).options['n'] == 1
    assert read('script.py', ['--n=3', '--n=4']).options['n'] == 4
    assert one.options['name'] == 'a' and 'hidden' not in one.options


def test_a_default_config_gives_defaults_and_a_named_one_replaces_it(given, tmp_path):
    (tmp_path / 'default.py').write_text('n = 7\nx = 7\n')
    (tmp_path / 'a.py').write_text('x = 1\n')
    alone = read('script.py', ['--x=2'], tmp_path / 'default.py')
    assert (alone.options['n'], alone.options['x']) == (7, 2.0)
    assert alone.given == {'x': 'the command line'} and alone.files == []
    named = read('script.py', ['a.py'], tmp_path / 'default.py')
    assert (named.options['n'], named.options['x'], named.given) == (3, 1.0, {'x': 'a.py:1'})


def test_a_model_that_does_not_exist_is_an_error_that_lists_those_that_do(given):
    for argv in ['--model=gtp', '--n_layer=2'], ["model = 'gtp'\nn_layer = 2\n"]:
        problems = errors_of(given, *argv)[:-1]
        assert "'gtp'" in problems[0] and all(repr(name) in problems[0] for name in MODELS)
        assert len(problems) == 1       # not one for n_layer: it may be an option of the model that was meant
    with pytest.raises(SystemExit) as stop:
        given('--model=gtp', '-h')
    assert stop.value.code == 0


# --- help and declarations

@pytest.mark.parametrize('model', MODELS)
def test_help_lists_every_option_and_every_field_of_the_model_with_its_comment(capsys, monkeypatch, model):
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    with pytest.raises(SystemExit) as stop:
        read(ROOT / 'train.py', [f'--model={model}', '--help', '--nonsense=1'])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and text.startswith(importlib.import_module('train').__doc__.strip())
    keys = [*parse_options(ROOT / 'train.py').values(),
            *parse_options(ROOT / f'models/{model}.py', 'Config').values()]
    assert len(keys) > 30
    for key in keys:
        line = next(line for line in text.splitlines() if line.strip().startswith(f'--{key.name}='))
        assert key.comment in line and (f'={key.default} ' in line or key.name == 'model'), key.name
        assert not key.choices or ' | '.join(map(str, key.choices)) in line
    headings = {key.group for key in keys}
    assert all(f'\n{heading}:\n' in text for heading in headings if heading)


@pytest.mark.parametrize('script', [*SCRIPTS, 'data/shakespeare/prepare.py', 'data/stdlib/prepare.py'])
def test_every_script_helps_and_does_nothing_else(launch, tmp_path, script):
    code, text = launch(script, '--help', cwd=tmp_path)
    assert code == 0 and '--' in text and 'Traceback' not in text and '\n:\n' not in text, text
    assert [path.name for path in tmp_path.iterdir()] == ['output0']


def test_a_script_of_your_own_needs_no_docstring_and_is_called_where_it_is(given, tmp_path, capsys):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/prepare.py').write_text('size = 3    # of it\n')
    with pytest.raises(SystemExit) as stop:
        read('own/prepare.py', ['--help'])
    assert stop.value.code == 0 and re.search('--size=3 +of it', capsys.readouterr().out)
    with pytest.raises(UserError, match='python own/prepare.py --help'):
        read(tmp_path / 'own/prepare.py', ['--sise=3'])


def nobody_reads():
    """Patched into a child: close the reading end of its output, as in `python -u ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader), os.dup2(writer, 1)
    sys.stdout = open(1, 'w', buffering=1, encoding='utf-8', closefd=False)


def test_help_into_a_closed_pipe_is_no_bug(launch):
    code, text = launch('train.py', '--help', env={'PATCH': 'test_configurator.nobody_reads'})
    assert code != 1 and text == ''


@pytest.mark.parametrize('script', [name for name in SCRIPTS if name != 'configurator.py'])     # the doctor's
def test_declarations_are_what_python_sees(script):
    module, keys = importlib.import_module(script[:-3]), parse_options(ROOT / script)
    assert keys
    for name, key in keys.items():
        value = getattr(module, name)
        assert value == key.default and type(value) is type(key.default), name
        assert key.comment and (not key.choices or key.default in key.choices), name


def test_a_comment_of_several_lines_is_shown_whole(tmp_path):
    (tmp_path / 'script.py').write_text("""x = 1       # the first line;
            # and the second
# a heading
y = 2       # another option
""")
    options = parse_options(tmp_path / 'script.py')
    assert options['x'].comment == 'the first line; and the second'
    assert options['y'].comment == 'another option'


def test_other_annotations_are_no_choices_and_a_single_choice_is_one(tmp_path):
    (tmp_path / 'model.py').write_text('class Config:\n    sizes: tuple[int, int] = (1, 2)     # pixels\n'
                                       "    kind: Literal['one'] = 'one'        # which\n"
                                       '    rate: Optional[float] = 0.5         # how much\n')
    keys = parse_options(tmp_path / 'model.py', 'Config')
    assert {name: key.choices for name, key in keys.items()} == {'kind': ('one',), 'rate': ()}
    assert keys['kind'].convert('one', text=True) == 'one'


def test_every_option_of_train_is_declared_with_a_comment():
    body = ast.parse((ROOT / 'train.py').read_text(encoding='utf-8')).body
    literals = {target.id for node in body if isinstance(node, (ast.Assign, ast.AnnAssign))
                for target in getattr(node, 'targets', [getattr(node, 'target', None)])
                if isinstance(node.value, (ast.Constant, ast.UnaryOp, ast.BinOp))}
    keys = parse_options(ROOT / 'train.py')
    assert literals - {'AT_LEAST_0', 'AT_LEAST_1', 'BELOW_1'} == set(keys)
    assert all(len(key.comment) > 2 and key.group for key in keys.values())


@pytest.mark.parametrize('name', MODELS)
def test_config_fields_are_declared_commented_and_no_option_of_train(name):
    keys = parse_options(ROOT / f'models/{name}.py', 'Config')
    config = importlib.import_module(f'models.{name}').Config
    fields = [f for f in dataclasses.fields(config) if f.type is not tuple]     # tuples are the data set's
    assert [f.name for f in fields] == list(keys)
    for f in fields:
        key = keys[f.name]
        assert (f.default, type(f.default)) == (key.default, type(key.default)), f.name
        assert len(key.comment) > 2 and (not key.choices or f.default in key.choices), f.name
        assert key.choices == f.type.__args__ if key.choices else f.type is type(f.default), f.name
    assert not set(keys) & set(parse_options(ROOT / 'train.py'))


@pytest.mark.parametrize('path', CONFIGS)
def test_every_config_file_is_legal(monkeypatch, path):
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    settings = configurator.read_train([str(ROOT / path)])
    config = importlib.import_module(f'models.{settings.options["model"]}').Config(**settings.fields)
    assert settings.given and dataclasses.asdict(config).items() >= settings.fields.items()
    assert (ROOT / 'data' / settings.options['dataset'] / 'prepare.py').exists()


# --- the machine

def test_the_settings_of_a_cpu_and_why():
    assert machine.resolve('cpu', 'float32', False)[:3] == ('cpu', 'float32', False)
    device, dtype, compile, reasons = machine.resolve('cpu')
    assert device == 'cpu' and dtype in ('float32', 'bfloat16') and compile is False
    assert all(f'{word} (' in reasons for word in ('cpu', dtype, 'False'))
    assert machine.resolve('cpu', 'bfloat16', True)[1:3] == ('bfloat16', True)
    torch.zeros(2, device=machine.resolve()[0]).sum()


@pytest.mark.parametrize('device', ['tpu', '', 'CPU', 'cpu:x', 'cpu:', 'cpu:1', 'cpu:00', 'cpu:\u0660',
                                    'cuda:x', 'cuda:99', 'mps:x', 'meta'])
def test_a_device_that_is_not_available_is_an_error_that_lists_those_that_are(device):
    with pytest.raises(UserError, match='cpu') as error:
        machine.resolve(device)
    assert error.value.code == 2 and repr(device) in str(error.value)


@pytest.mark.parametrize('device, gpu, mps', [
    ('cuda', False, True), ('cuda:0', False, False), ('mps', True, False)])
def test_a_gpu_that_is_not_available_is_an_error(monkeypatch, device, gpu, mps):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    with pytest.raises(UserError, match=f'{device}'):
        machine.resolve(device)


# --- a trained model

def test_load_gives_the_best_model_of_a_run_in_eval_mode(launch, toy, tmp_path):
    code, text = launch('train.py', *TINY, f'--dataset={toy}', f'--out_dir={tmp_path}/run', '--max_iters=12')
    assert code == 0, text
    for path, file in ('run', 'best.pt'), ('run/last.pt', 'last.pt'):
        net, weights = load(tmp_path / path), load_checkpoint(tmp_path / 'run' / file)['model']
        assert not net.training and net.state_dict().keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    split = data.load_split(toy, 'val', ['tokens'], 16)
    with torch.no_grad():
        sums = [load(str(tmp_path / 'run'))(**split.batch(rows)) for rows in split.evaluation_batches(8)]
    loss = sum(s['loss'].item() for s in sums) / sum(s['count'].item() for s in sums)
    assert loss == pytest.approx(load_checkpoint(tmp_path / 'run/best.pt')['best']['value'], rel=1e-5)
    with pytest.raises(UserError, match='there is no checkpoint'):
        load(tmp_path / 'nowhere')


def test_what_does_not_fit_is_listed_with_both_shapes():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    weights = {name: torch.ones_like(t) for name, t in net.state_dict().items()}
    assert load_weights(net, weights) == [] and all(bool((p == 1).all()) for p in net.parameters())
    weights = {name: t * 0 for name, t in weights.items()}
    weights['1.weight'], weights['extra'] = torch.zeros(5, 3), weights.pop('1.bias')
    with pytest.raises(UserError, match='3 tensors do not fit') as error:
        load_weights(net, weights)
    for line in ('1.weight: the model has (4, 3), the checkpoint (5, 3)',
                 '1.bias: the model has (4,), the checkpoint none',
                 'extra: the model has none, the checkpoint (4,)'):
        assert line in str(error.value)
    assert all(bool((p == 1).all()) for p in net.parameters())      # nothing of it was taken
    assert len(load_weights(net, weights, strict=False)) == 3
    assert not net[0].weight.any() and not net[0].bias.any() and bool((net[1].weight == 1).all())


# --- imports and the doctor

WATCHED = '''
import sys, threading, torch, numpy, requests, matplotlib.figure, matplotlib.font_manager
def state():
    return threading.active_count(), torch.get_num_threads(), torch.initial_seed(), sys.excepthook
def hook(event, args):
    if event in ('subprocess.Popen', 'os.system', 'socket.connect', 'socket.getaddrinfo', 'os.mkdir'):
        print(event, args)
    if event == 'open' and isinstance(args[1], str) and set(args[1]) & set('wax+'):
        print(event, args)
before = state()
sys.addaudithook(hook)
for name in sys.argv[1:]:
    __import__(name)
assert state() == before and not torch.distributed.is_initialized()
'''


def test_importing_every_module_does_no_work(tmp_path, tmp_path_factory):
    cache = tmp_path_factory.mktemp('matplotlib')        # which makes it when it is imported
    modules = [path.stem for path in ROOT.glob('*.py')]
    for folder in 'core', 'data', 'models', 'plots', 'samples':
        modules += [f'{folder}.{path.stem}' for path in (ROOT / folder).glob('[a-z]*.py')]
    some = {'train', 'sample', 'core.run', 'configurator', 'core.search', 'models.gpt', 'data.download'}
    assert some <= set(modules)
    done = subprocess.run([sys.executable, '-B', '-c', WATCHED, *modules], cwd=tmp_path, capture_output=True,
                          text=True, env={'PYTHONPATH': str(ROOT), 'PATH': '', 'MPLCONFIGDIR': str(cache)},
                          timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert not list(tmp_path.iterdir())


def test_the_doctor_tells_what_there_is(launch):
    code, text = launch('configurator.py')
    assert code == 0 and 'Traceback' not in text, text
    words = 'device', 'dtype', 'compile', 'memory', 'disk', 'mirror', 'speed', 'python train.py'
    names = [path.parent.name for path in (ROOT / 'data').glob('*/prepare.py')]
    for word in platform.python_version(), torch.__version__, *words, *names:
        assert word in text, word


def test_the_doctor_finds_damaged_data(capsys, tmp_path):
    for name in 'whole', 'short', 'flipped', 'none':
        data.save(f'{tmp_path}/data/{name}', {'train': {'label': [1, 2, 3, 4]}}, info={'n_class': 5})
        (tmp_path / f'data/{name}/prepare.py').touch()
    (tmp_path / 'data/none/meta.json').unlink()
    (tmp_path / 'data/short/train.label.bin').write_bytes(b'abc')
    (tmp_path / 'data/flipped/train.label.bin').write_bytes(b'abcdefgh')
    doctor.print_data_sets(tmp_path, verify=True)
    text = capsys.readouterr().out
    found = {line.split()[1]: line for line in text.splitlines() if line.startswith('data ')}
    for name, word in {'whole:': 'ready', 'short:': 'expected 8 bytes, found 3', 'flipped:': 'sha256',
                       'none:': 'not prepared'}.items():
        assert word in found[name], text
