"""What both programs of `mitogend repl` share: the module in which input runs."""
import sys


def begin():
    """Its namespace. The program itself is out of sight."""
    main = type(sys)('__main__')
    ours, sys.modules['__main__'] = sys.modules['__main__'], main
    main.__dict__['__builtins__'] = ours.__builtins__
    HELD.append(ours)  # 2.x empties a module that nobody holds
    sys.argv[:] = ['']
    return main.__dict__


HELD = []
