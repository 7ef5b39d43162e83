import sys

from . import VALUE

result = __name__, __package__, VALUE
print(result, sys.argv[1:])
