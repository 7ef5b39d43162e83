package unixclient

import "testing"

const siblingsProgram = `
import logging
import os
import sys
import mitogen.core
import mitogen.parent

@mitogen.core.takes_router
def ask(context, router):
    context = mitogen.parent.Context(router, context.context_id)
    return context.call(os.getpid)

class Siblings(logging.Handler):
    def emit(self, record):
        text = record.getMessage()
        if 'siblings cannot talk' in text:
            print(record.name, record.levelname, 'between the two', str(a.context_id) in text and str(b.context_id) in text)

if __name__ == '__main__':
    import mitogen.unix
    router, parent = mitogen.unix.connect(sys.argv[1])
    try:
        router.unidirectional = True
        a, b = router.local(via=parent, name='a'), router.local(via=parent, name='b')
        logging.getLogger().addHandler(Siblings())
        logging.getLogger('mitogen.ctx').setLevel(logging.DEBUG)
        logging.getLogger().setLevel(logging.DEBUG)
        try:
            a.call(ask, b)
        except mitogen.core.CallError as e:
            print('may not send' in str(e))
    finally:
        router.broker.shutdown()
        router.broker.join()
`

// The client is told, as its own router would tell it, when two of its children may not talk.
func TestSiblingsAreLogged(t *testing.T) {
	_, socket := serve(t, Options{})
	run(t, "mitogen.[None.a] DEBUG between the two True\nTrue\n", siblingsProgram, nil, socket)
}
