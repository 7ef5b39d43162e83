import os
import pkgutil

import report


def here():
    data = os.path.join(os.path.dirname(report.__file__), 'data', 'greeting.txt')
    with open(data) as f:
        size = len(f.read())
    names = sorted(name for _, name, _ in pkgutil.iter_modules(report.__path__))
    return [__file__, size, names, os.path.exists(data + 'x'), sorted(os.listdir(os.path.dirname(report.__file__)))]


def resources():
    import importlib.resources
    return (importlib.resources.files('report') / 'data' / 'greeting.txt').read_text()
