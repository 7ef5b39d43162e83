"""One whole program: a child, one answer, the end."""

import sys

import execnet

gateway = execnet.makegateway('popen//python=' + sys.argv[1])
print(gateway.remote_exec('import os; channel.send(os.getpid())').receive())
gateway.exit()
execnet.default_group.terminate(timeout=5)
