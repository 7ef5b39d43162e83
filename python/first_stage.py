# All that stands in the target's command line. The syntax is Python 2.4's, so that an old interpreter can say that it
# is too old. The line that runs this has imported binascii, sys and zlib.
import marshal, os, select


def write(text):
    os.write(1, text.encode())


def read(n):
    data = "".encode()
    while len(data) < n:
        try:
            chunk = os.read(0, n - len(data))
        except OSError:
            # A non-blocking stdin (sudo with log_output).
            if sys.exc_info()[1].errno != 11 and sys.exc_info()[1].errno != 35:
                raise
            select.select([0], [], [])
            continue
        if not chunk:
            os._exit(1)
        data += chunk
    return data


def magic():
    # The first two bytes of the magic number of the bytecode that it takes. Optimizing interpreters and special
    # builds take none.
    if sys.flags.optimize or hasattr(sys, "gettotalrefcount") or "t" in getattr(sys, "abiflags", ""):
        return ""
    module = sys.modules.get("_frozen_importlib_external")
    return " " + binascii.hexlify(module and module.MAGIC_NUMBER or __import__("imp").get_magic())[:4].decode()


class Module(type(sys)):
    def __getattr__(self, name):
        return self.lazy(name)


def start():
    v = sys.version_info[:2]
    if v < (2, 7) or (3, 0) <= v < (3, 6):
        write("MITOERR %s is Python %d.%d; 2.7 or 3.6 and later is needed\n" % ((sys.executable,) + v))
        os._exit(1)
    write("MITO000 %x%s\n" % (sys.hexversion, magic()))
    size = "".encode()
    while size[-1:] != "\n".encode():
        size += read(1)
    # The core's source, its code if that is sent as well, which may hold NULs, and the config.
    nul = "\0".encode()
    source, nul, config = zlib.decompress(read(int(size))).rpartition(nul)
    source, nul, code = source.partition(nul)
    write("MITO001\n")
    # 2.x looks up the parent package at each import within a module of a dotted name.
    sys.modules["mitogen"] = type(sys)("mitogen")
    module = sys.modules["mitogen.core"] = Module("mitogen.core")
    exec(code and marshal.loads(code) or compile(source, "/master:mitogen/core.py", "exec", 0, 1), module.__dict__)
    return module.main(eval(config), source)


# In a process that was forked off this one, main() returns a program. It runs here, with as little as possible below
# it.
program = start()
try:
    exec(program.code(), program.__dict__.pop("space"))
except SystemExit:
    raise
except:
    program.failed()
    raise
