"""The syntax trees of all files: nothing executes, unpickles or imports what it should not."""
import ast, re, sys

import pytest

from conftest import ROOT

FOLDERS = '', 'config/', 'core/', 'models/', 'data/', 'data/*/', 'plots/', 'samples/', 'results/'
NAMES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in ROOT.glob(f'{folder}*.py'))
LOCAL = {path.stem for path in ROOT.glob('*.py')}
LOCAL |= {'config', 'core', 'models', 'data', 'plots', 'results', 'samples'}
PACKAGES = {'torch', 'numpy', 'tiktoken', 'matplotlib', 'requests',
            'PIL', 'regex'}         # which come with matplotlib and tiktoken
COMPARISONS = {'sklearn'}           # what scripts of results/ compare with
FORBIDDEN = {'exec', 'eval', 'compile', '__import__', 'os.system', 'os.popen', 'subprocess.getoutput',
             'subprocess.getstatusoutput', 'os.execv', 'os.execvp', 'os.spawnv'}
UNPICKLERS = {'pickle', '_pickle', 'cPickle', 'dill', 'joblib', 'shelve', 'marshal', 'code'}
TEXT = {'open': 3, 'io.open': 3, 'read_text': 0, 'write_text': 1}    # where `encoding` stands by position


def dotted(node):
    """Return 'a.b.c' for such an expression, '' for any other."""
    if isinstance(node, ast.Attribute):
        return f'{dotted(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


def imported(node):
    """Return the modules that an import statement names, with the names imported from them."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ['.' * node.level + f'{node.module or ""}.{alias.name}' for alias in node.names]
    return []


def text_without_encoding(node, name):
    """Return whether a call opens text in the machine's encoding. Not `x.open`: archives open bytes."""
    called = name.rsplit('.', 1)[-1] if name.endswith(('.read_text', '.write_text')) else name
    if called not in TEXT or any(k.arg == 'encoding' for k in node.keywords) or len(node.args) > TEXT[called]:
        return False
    modes = node.args[1:2] * called.endswith('open') + [k.value for k in node.keywords if k.arg == 'mode']
    return not any('b' in str(getattr(part, 'value', '')) for mode in modes for part in ast.walk(mode))


def flaws(source, name):
    """Return what a file must not contain but does: ['line: what', ...]."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f'{name}:{getattr(node, "lineno", 0)}'
        for module in imported(node):
            root = module.split('.')[0]
            if root in UNPICKLERS:
                found.append(f'{where}: imports {root}')
            allowed = PACKAGES | (COMPARISONS if name.startswith('results/') else set())
            if root not in sys.stdlib_module_names | allowed | LOCAL:
                found.append(f'{where}: imports {module}, which is none of the five packages')
            stands_alone = not module.startswith(('data.pretrained', 'data.spans'))
            if name.startswith('models/') and root in LOCAL and stands_alone:
                found.append(f'{where}: a model file imports {module}')
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f'{where}: a bare except')
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body) \
                and dotted(node.type) in ('Exception', 'BaseException'):
            found.append(f'{where}: swallows everything')
        if not isinstance(node, ast.Call):
            continue
        called, keywords = dotted(node.func), {k.arg: getattr(k.value, 'value', ...) for k in node.keywords}
        if called in FORBIDDEN or called.endswith(('.extractall', '.extract')):
            found.append(f'{where}: calls {called}')
        if keywords.get('shell', False) is not False:
            found.append(f'{where}: a shell')
        if keywords.get('allow_pickle', False) is not False:
            found.append(f'{where}: allow_pickle')
        if called == 'torch.load' and keywords.get('weights_only') is not True:
            found.append(f'{where}: torch.load without weights_only=True')
        if text_without_encoding(node, called):
            found.append(f'{where}: {called} without an encoding')
    return found


@pytest.mark.parametrize('source', [
    'exec("1")', 'eval("1")', '__import__("os")', 'os.system("ls")', 'os.popen("ls")', 'import pickle',
    'from pickle import load', 'subprocess.run("ls", shell=True)', 'tar.extractall("x")', 'zip.extract("x")',
    'torch.load("x")', 'torch.load("x", weights_only=False)', 'np.load("x", allow_pickle=True)', 'open("x")',
    'open("x", "w")', 'open("x", mode="r")', 'open("b")', 'open("b", "w" if b else "r")',
    'Path("x").read_text()', 'path.write_text("x")', 'import pandas', 'from scipy import stats',
    'import torchvision', 'from . import other', 'try:\n    x\nexcept:\n    y',
    'try:\n    x\nexcept Exception:\n    pass'])
def test_each_flaw_would_be_found(source):
    assert flaws(source, 'x.py')


@pytest.mark.parametrize('source', ['import configurator', 'from data import Split', 'import models.resnet',
                                    'from train import x', 'from . import gpt', 'from .gpt import Block'])
def test_a_model_that_imports_another_would_be_found(source):
    assert flaws(source, 'models/x.py') and not flaws('from data.pretrained import read', 'models/x.py')


@pytest.mark.parametrize('source', [
    'open("x", "rb")', 'open("x", "ab" if y else "wb")', 'open("x", mode="wb")',
    'open("x", encoding="utf-8")', 'path.read_text("utf-8")', 'path.write_text("x", encoding="utf-8")',
    'torch.load("x", weights_only=True)', 'subprocess.run(["ls"])', 'net.eval()', 're.compile("x")',
    'net.compile()', 'zipfile.ZipFile("x").open("y")', 'import torch.nn.functional as F',
    'from data.tokenizer import load'])
def test_what_is_allowed_is_not_called_a_flaw(source):
    assert not flaws(source, 'x.py')


def test_the_files_are_found():
    assert {'train.py', 'data/__init__.py', 'models/gpt.py', 'data/stdlib/prepare.py',
            'config/train_stdlib.py'} <= set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_a_file_has_no_flaw(name):
    assert not flaws((ROOT / name).read_text(encoding='utf-8'), name)


@pytest.mark.parametrize('name', NAMES)
def test_lines_have_at_most_110_characters_and_no_loose_ends(name):
    source = (ROOT / name).read_text(encoding='utf-8')
    lines = source.split('\n')
    assert not [f'{name}:{n}: {len(line)}' for n, line in enumerate(lines, 1) if len(line) > 110]
    assert not [f'{name}:{n}' for n, line in enumerate(lines, 1) if line != line.rstrip() or '\t' in line]
    assert source.endswith('\n') and not source.endswith('\n\n')


@pytest.mark.parametrize('name', [name for name in NAMES if not name.startswith('config/')])
def test_a_file_says_what_it_is(name):
    assert ast.get_docstring(ast.parse((ROOT / name).read_text(encoding='utf-8')))


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('config/')])
def test_a_config_is_a_docstring_and_lines_of_name_and_value(name):
    first, *rest = ast.parse((ROOT / name).read_text(encoding='utf-8')).body
    assert isinstance(first, ast.Expr) and isinstance(first.value.value, str)
    for node in rest:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name), node.lineno
        assert not any(isinstance(part, (ast.Call, ast.Name)) for part in ast.walk(node.value)), node.lineno
    names = [node.targets[0].id for node in rest]
    assert len(set(names)) == len(names)        # the second would win in silence


def test_both_lists_of_requirements_agree_and_have_no_upper_bounds():
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').split()
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    dependencies = re.search(r'^dependencies = \[(.*?)\]', project, re.MULTILINE | re.DOTALL)[1]
    assert re.findall('"(.*?)"', dependencies) == lines and 'package = false' in project
    for line in lines:
        assert re.fullmatch(r'[a-z]+>=[\d.]+', line)        # an upper bound would keep a newer version away


def local_imports(name):
    """Return the files of the repository that a file imports, functions and `__main__` included."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding='utf-8'))):
        for module in imported(node):
            parts = module.split('.')
            for length in range(len(parts), 0, -1):     # a.b.c may be the file a/b/c.py or a name in a/b.py
                path = '/'.join(parts[:length])
                files = {f'{path}.py', f'{path}/__init__.py'} & set(NAMES)
                if files:
                    found |= files
                    break
    return found


def test_nothing_is_imported_in_a_circle():
    imports = {name: local_imports(name) for name in NAMES}
    while imports:      # take away what imports nothing that is left, until nothing is left
        leaves = [name for name, files in imports.items() if not files & imports.keys() - {name}]
        assert leaves, f'these import each other in a circle: {sorted(imports)}'
        for name in leaves:
            del imports[name]


PAGES = ['README.md', *sorted(f'results/{path.name}' for path in (ROOT / 'results').glob('*.md'))]


@pytest.mark.parametrize('page', PAGES)
def test_every_file_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    folders = 'config|models|data|core|samples|plots|results|tests'
    named = set(re.findall(rf'\b(?:{folders})/[\w/]+\.(?:py|json|jsonl|png|md)', text))
    linked = {target for target in re.findall(r'\]\(([\w./]+)\)', text)}
    missing = [name for name in named if 'NAME' not in name and not (ROOT / name).exists()]
    missing += [name for name in linked if not ((ROOT / page).parent / name).exists()]
    assert not missing
