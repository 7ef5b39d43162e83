"""Prints, for each file named on stdin, the imports that this interpreter's own parser sees: one JSON object a line.

An import is [line, level, module, names], as the scanner has it: "import a, b" is two. Files that do not compile are left out.
"""
import ast
import json
import sys

for path in sys.stdin.read().splitlines():
    with open(path, 'rb') as fp:
        source = fp.read()
    try:
        tree = compile(source, path, 'exec', ast.PyCF_ONLY_AST, True)
    except (SyntaxError, ValueError, TypeError, UnicodeDecodeError):
        continue
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append([node.lineno, 0, alias.name, []])
        elif isinstance(node, ast.ImportFrom):
            found.append([node.lineno, node.level or 0, node.module or '', [a.name for a in node.names]])
    print(json.dumps({'path': path, 'imports': sorted(found)}))
