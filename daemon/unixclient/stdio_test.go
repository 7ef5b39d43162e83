package unixclient

import "testing"

const stdioProgram = `
import fcntl
import os
import sys
import mitogen.core

def shout(fd):
    blocking = [not fcntl.fcntl(i, fcntl.F_GETFL) & os.O_NONBLOCK for i in (0, 1, 2)]
    return blocking, os.write(fd, (b'x' * 1023 + b'\n') * 1024)

if __name__ == '__main__':
    import logging
    import mitogen.unix
    logging.disable(logging.CRITICAL)
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        c = router.local(via=parent)
        s = router.su(via=parent, python_path=sys.executable) if os.getuid() == 0 else c
        for child in c, s, router.local(via=s), router.local(via=router.local(via=c)):
            print(child.call(shout, 1), child.call(shout, 2))
    finally:
        router.broker.shutdown()
        router.broker.join()
`

// What a child prints has to arrive, however much it is: descriptors 0, 1 and 2 block, also those of children that it
// starts itself.
func TestStdioBlocks(t *testing.T) {
	_, socket := serve(t, Options{})
	line := "([True, True, True], 1048576) ([True, True, True], 1048576)\n"
	run(t, line+line+line+line, stdioProgram, nil, socket)
}
