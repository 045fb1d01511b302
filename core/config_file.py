"""Config files: lines `name = value`, parsed and never executed, so that a stranger's file can do no harm."""
import ast
import math
import operator
from pathlib import Path

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow,
             ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.USub: operator.neg}
PARSE_ERRORS = SyntaxError, ValueError, RecursionError, MemoryError     # what ast.parse and evaluate raise


def parse_config(path):
    """Return the lines of a config file, [(name, value, 'path:line')], and a list of the problems in it."""
    try:
        body = ast.parse(Path(path).read_text(encoding='utf-8-sig')).body
    except OSError as error:
        return [], [f'{path}: {error.strerror}; config files are in config/']
    except PARSE_ERRORS as error:
        line = getattr(error, 'lineno', None) or 1
        return [], [f'{path}:{line}: cannot be read: {getattr(error, "msg", error)}']
    lines = []
    problems = []
    for node in body:
        where = f'{path}:{node.lineno}'
        match node:
            case ast.Expr(ast.Constant(str())):
                pass            # a docstring
            case ast.Assign([ast.Name(name)], value):
                try:
                    lines.append((name, evaluate(value), where))
                except PARSE_ERRORS as error:
                    problems.append(f'{where}: {name} {error}')
            case _:
                problems.append(f'{where}: expected `name = value`; config files are never executed')
    return lines, problems


def evaluate(node):
    """Return the value of a literal, or of + - * / // ** of finite numbers with exponents of at most 64.

    `node` is a syntax tree: evaluate(ast.parse('2 * 3', mode='eval').body) is 6. Raises ValueError otherwise.
    """
    try:
        match node:
            case ast.Constant(str() | bool()):
                return node.value
            case ast.Constant(int() | float() as value):
                pass
            case ast.UnaryOp() | ast.BinOp() if type(node.op) in OPERATORS:
                children = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
                operands = [evaluate(child) for child in children]
                too_large = isinstance(node.op, ast.Pow) and abs(operands[1]) > 64
                if too_large or any(type(operand) not in (int, float) for operand in operands):
                    raise ValueError('is not arithmetic of numbers, with exponents of at most 64')
                value = OPERATORS[type(node.op)](*operands)
            case _:
                raise ValueError('is not a literal or arithmetic of numbers; nothing is ever executed')
        if math.isfinite(value):
            return value
    except (ArithmeticError, TypeError):    # 1 / 0, an int beyond all floats, a complex number
        pass
    raise ValueError('is not a finite number')
