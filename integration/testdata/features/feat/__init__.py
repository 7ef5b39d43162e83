"""A package for programs that use what Python has for packages."""
import os

HERE = os.path.dirname(__file__)
VALUE = 1
