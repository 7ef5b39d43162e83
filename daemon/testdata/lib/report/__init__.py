import pkgutil

from report import lines


def greet(name):
    text = pkgutil.get_data(__name__, 'data/greeting.txt').decode('utf-8')
    return lines.first(text).replace('NAME', name)


def fail():
    raise ValueError('no')
