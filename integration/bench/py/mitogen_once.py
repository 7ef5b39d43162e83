"""One whole program: a child, one call, the end."""

import os
import sys

import mitogen.master

broker = mitogen.master.Broker()
router = mitogen.master.Router(broker)
print(router.local(python_path=sys.argv[1]).call(os.getpid))
broker.shutdown()
broker.join()
