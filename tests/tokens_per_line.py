"""Print how dense each Python file is: lines, tokens per line of code, comments, comprehensions.

    python tests/tokens_per_line.py             # all files
    python tests/tokens_per_line.py models      # those of one folder

This is information, not a limit: no test reads it. Comments, docstrings and blank lines are not counted.
A file with many tokens per line is often easier to read once intermediate results have names.
"""
import ast
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYOUT = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
DOCUMENTED = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef


def measure(path):
    """Return (lines, tokens per line of code, comments, comprehensions) of a Python file."""
    source = path.read_text(encoding='utf-8')
    docstrings = set()          # the lines on which one starts
    comprehensions = 0
    for node in ast.walk(ast.parse(source)):
        comprehensions += isinstance(node, COMPREHENSIONS)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.add(node.body[0].lineno)
    tokens = 0
    comments = 0
    code_lines = set()
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            line = token.start[0]
            is_docstring = token.type == tokenize.STRING and line in docstrings
            if token.type == tokenize.COMMENT:
                comments += 1
            elif token.type not in LAYOUT and not is_docstring:
                tokens += 1
                code_lines.add(line)
    return source.count('\n'), tokens / max(len(code_lines), 1), comments, comprehensions


if __name__ == '__main__':
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *sys.argv[1:]]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [(measure(ROOT / name), name) for name in names if name.endswith('.py') and (ROOT / name).exists()]
    print('lines  tokens/line  comments  comprehensions  file')
    for (lines, density, comments, comprehensions), name in sorted(rows, reverse=True):
        print(f'{lines:5}  {density:11.1f}  {comments:8}  {comprehensions:14}  {name}')
