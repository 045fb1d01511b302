"""Options: declared in the source of a script, given in config files and on the command line, and checked.

An option of a script is an assignment at module level with a comment. The line

    max_iters = 2000        # steps

makes Option(name='max_iters', default=2000, choices=(), comment='steps', group='optimization'). The fields of
the Config in the model's file are options in the same way. A config file has lines `name = value`; it is
parsed and never executed (core/config_file.py).

    python train.py config/train_shakespeare.py --max_iters=200 --n_layer=4     # the later value wins
    python train.py --help                                                      # every option and its comment
    python configurator.py --verify                                             # what this machine offers
"""
import ast
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from core import errors
from core.config_file import PARSE_ERRORS, evaluate, parse_config
from core.errors import UserError
from core.names import expand_home, nearest, unknown_option

ROOT = Path(__file__).resolve().parent
COMMAND_LINE = 'the command line'
# An option on the command line replaces what a config file says of another one.
REPLACES = [('max_iters', 'epochs'), ('max_iters', 'max_minutes'), ('epochs', 'max_minutes'),
            ('dataset', 'prepare')]


@dataclass
class Option:
    name: str
    default: object
    choices: tuple      # the legal values of a Literal; () if any value of the default's type is legal
    comment: str
    group: str

    def convert(self, value, text=False):
        """Return `value` in this option's type; `text`: it was typed on a command line. Raises ValueError."""
        if self.choices:
            return self.choose(value, text)
        expected = type(self.default)
        if text and expected is not str:
            try:
                value = evaluate(ast.parse(value.strip(), mode='eval').body)
            except PARSE_ERRORS:
                pass        # it stays a string, which is an error below
        if type(value) in (int, float) and abs(value) > 2**53:      # beyond, a float is no exact number
            raise ValueError(f'{self.name}: expected at most 2**53, got {value:.3g}')
        if '\0' in str(value):
            raise ValueError(f'{self.name}: expected no NUL character, got {value!r}')
        if type(value) is expected:
            return expand_home(self.name, value) if expected is str else value
        if type(value) in (int, float):
            if expected is float or expected is int and value == int(value):
                return expected(value)
        raise ValueError(f'{self.name}: expected {expected.__name__}, as in {self.default!r}, got {value!r}')

    def choose(self, value, text):
        """Return the choice that `value` names. Raises ValueError."""
        for choice in self.choices:
            if text and str(choice) == value:
                return choice
            if not text and type(choice) is type(value) and choice == value:    # True is not 1
                return choice
        legal = ', '.join(repr(choice) for choice in self.choices)
        raise ValueError(f'{self.name}: expected one of {legal}, got {value!r}{nearest(value, self.choices)}')


@dataclass
class Settings:
    options: dict   # every option of the script: its value
    fields: dict    # the fields of the model's Config that were given
    given: dict     # name -> where it was given: 'config/x.py:3' or 'the command line'
    files: list     # the arguments that are not options


def read(script, argv, default_config='', words=False, also=()):
    """Return the Settings of `script`: its defaults, then config files and `--name=value` in their order.

    default_config: a config file that is read unless `argv` names another one or a model. words: arguments
    that are not options are legal. also: further sources of options, each a file or (file, class name).
    --help prints every option and exits. Raises UserError for all problems at once: where each one stands,
    what was expected, the nearest legal name.
    """
    errors.set_up()
    options = parse_options(script)
    for source in also:
        path, class_name = source if isinstance(source, tuple) else (source, '')
        options |= parse_options(path, class_name)
    files = [argument for argument in argv if not argument.startswith('-')]

    # 1. What is given: a line (name, value, where) for each option, in their order.
    configs = []
    if 'model' in options:
        configs = [argument for argument in files if argument.endswith('.py')]
    use_default = default_config and not configs and not any(a.startswith('--model=') for a in argv)
    default_lines, problems = parse_config(default_config) if use_default else ([], [])
    expected = '--name=value or a config file' if default_config else '--name=value'
    lines, more_problems = parse_arguments(argv, configs, words, expected)
    problems += more_problems

    # 2. Which options there are: also the fields of the model that these lines choose.
    fields = {}
    if 'model' in options:
        options['model'].choices = model_names()
        values = {name: value for name, value, where in default_lines + lines}      # the later one counts
        model = values.get('model', options['model'].default)
        if model in model_names():
            fields = parse_options(ROOT / 'models' / f'{model}.py', 'Config')

    # 3. Their values.
    settings = Settings({name: option.default for name, option in options.items()}, {}, {}, files)
    problems += set_values(settings, default_lines, options, fields)
    settings.given.clear()      # what the default config says counts as a default, not as given
    problems += set_values(settings, lines, options, fields)
    for name, replaced in REPLACES:
        on_command_line = settings.given.get(name) == COMMAND_LINE
        if replaced in options and on_command_line and settings.given.get(replaced) != COMMAND_LINE:
            settings.options[replaced] = options[replaced].default
            settings.given[replaced] = COMMAND_LINE
    if '--help' in argv or '-h' in argv:
        print(help_text(script, options | fields, settings.options | settings.fields))
        raise SystemExit(0)
    if problems:
        raise UserError(*problems, f'`python {os.path.relpath(script)} --help` shows every option')
    return settings


def parse_arguments(argv, configs, words, expected):
    """Return the lines of the config files and of `--name=value` in `argv`, and a list of the problems."""
    lines = []
    problems = []
    for argument in argv:
        if argument in configs:
            more_lines, more_problems = parse_config(argument)
            lines += more_lines
            problems += more_problems
        elif argument.startswith('--') and argument != '--help':
            name, equals, value = argument[2:].partition('=')
            lines.append((name, value if equals else None, COMMAND_LINE))
        elif argument not in ('-h', '--help') and (argument.startswith('-') or not words):
            problems.append(f'{argument!r}: expected {expected}')
    return lines, problems


def set_values(settings, lines, options, fields):
    """Put the values of `lines`, and where they are given, into `settings`; return a list of the problems."""
    no_such_model = 'model' in options and not fields
    problems = []
    for name, value, where in lines:
        if no_such_model and name not in options:
            continue            # perhaps a field of the model that was meant: one problem is enough
        try:
            value = converted(name, value, where, options | fields)
        except ValueError as error:
            problems.append(f'{where}: {error}')
            continue
        values = settings.options if name in options else settings.fields
        values[name] = value
        settings.given[name] = where
    return problems


def read_train(argv):
    """Return the Settings of train.py, whose options are also those of data/augment.py."""
    augment = (ROOT / 'data' / 'augment.py', 'Augment')
    return read(ROOT / 'train.py', argv, ROOT / 'config' / 'train_stdlib.py', also=[augment])


def converted(name, value, where, options):
    """Return the value given for an option, in its type. Raises ValueError."""
    if name not in options:
        raise ValueError(unknown_option(name, options))
    option = options[name]
    if value is None:       # `--flag` without a value
        if type(option.default) is not bool:
            raise ValueError(f'--{name} needs a value: --{name}={option.default}')
        return True
    return option.convert(value, text=where == COMMAND_LINE)


def parse_options(path, class_name=''):
    """Return {name: Option} of what a script declares, or a dataclass in it: `class_name`."""
    source = Path(path).read_text(encoding='utf-8')
    lines = source.split('\n')
    body = ast.parse(source).body
    if class_name:
        body = next(node.body for node in body if getattr(node, 'name', '') == class_name)
    options = {}
    for node in body:
        match node:
            case ast.AnnAssign(ast.Name(name), ast.Subscript(ast.Name('Literal'), literal), value):
                elements = literal.elts if isinstance(literal, ast.Tuple) else [literal]
                choices = tuple(ast.literal_eval(element) for element in elements)
            case ast.AnnAssign(ast.Name(name), _, value) | ast.Assign([ast.Name(name)], value):
                choices = ()
            case _:
                continue
        comment = comment_of(node, lines)
        if comment and isinstance(value, (ast.Constant, ast.UnaryOp, ast.BinOp)):
            group = f'{class_name} of {Path(path).parent.name}/{Path(path).name}'
            if not class_name:
                headings = [line for line in lines[:node.lineno] if line.startswith('# --- ')]
                group = headings[-1].strip('# -') if headings else 'options'
            options[name] = Option(name, evaluate(value), choices, comment, group)
    return options


def comment_of(node, lines):
    """Return the comment behind a statement, with the comment lines below that are indented deeper."""
    line = lines[node.end_lineno - 1].encode()                  # columns count bytes
    comment = line[node.end_col_offset:].decode().partition('#')[2].strip()
    for line in lines[node.end_lineno:]:
        text = line.strip()
        if not text.startswith('#') or line.index('#') <= node.col_offset:
            break
        comment += ' ' + text.strip('# ')
    return comment


def model_names():
    """Return the names of the files in models/."""
    return tuple(sorted(path.stem for path in (ROOT / 'models').glob('[a-z]*.py')))


def help_text(script, options, values):
    """Return the script's docstring, then every option in its group with its present value."""
    lines = [ast.get_docstring(ast.parse(Path(script).read_text(encoding='utf-8'))) or '']
    group = None
    for option in options.values():
        if option.group != group:
            group = option.group
            lines += ['', f'{group}:']
        choices = ''
        if option.choices:
            choices = f'  [{" | ".join(str(choice) for choice in option.choices)}]'
        value = values.get(option.name, option.default)
        lines.append(f'  --{option.name}={value}'.ljust(30) + f' {option.comment}{choices}')
    return '\n'.join(lines)


if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'core' / 'doctor.py'), run_name='__main__')
