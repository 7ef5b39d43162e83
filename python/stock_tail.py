# Follows the core of a Mitogen whose Side makes its descriptors non-blocking. A child's descriptors 1 and 2 are
# copies of some of these, and Python, like every program, expects them to block.


def _mitogend_stdio(setup):
    def setup_stdio(self):
        setup(self)
        import fcntl
        for fd in 1, 2:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    return setup_stdio


ExternalContext._setup_stdio = _mitogend_stdio(ExternalContext._setup_stdio)
