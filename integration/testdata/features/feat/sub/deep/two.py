from .. import one
NAME = __name__, one.NAME
