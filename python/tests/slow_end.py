"""
A program whose first thread leaves, as the system sees it, a second before the others: its streams have ended, and it
has no exit status yet. The tests of both launchers run it, in Go and in Python.
"""
import ctypes
import os
import threading
import time


def end():
    time.sleep(1)
    os._exit(3)


leave, number = ctypes.CDLL(None).syscall, 60 if os.uname()[4] == 'x86_64' else 93
threading.Thread(target=end).start()
os.closerange(0, 10)
leave(number, 0)
