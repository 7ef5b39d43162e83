import importlib

__all__ = ['one', 'two']


def __getattr__(name):
    if name in __all__:
        return importlib.import_module('feat.sub.' + {'one': 'one', 'two': 'deep.two'}[name])
    raise AttributeError(name)


def __dir__():
    return __all__
