"""A tool."""
import warnings


def run(n=2):
    """Give n twice."""
    return n * 2


def fail():
    warnings.warn('careful')
    raise ValueError('as it should')


if __name__ == '__main__':
    print('run as a program', run())
