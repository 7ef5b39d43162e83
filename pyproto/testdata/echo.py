"""Reads pickles in hex, one a line, and answers each with a line of the same value in every protocol.

The Go side sends random values and expects them back.
"""
import binascii
import sys

import golden
from golden import picklers, pickle


def main():
    for line in sys.stdin:
        data = binascii.unhexlify(line.strip())
        value = pickle.loads(data) if golden.PY2 else pickle.loads(data, encoding='bytes')
        out = [binascii.hexlify(dumps(value, protocol)).decode('ascii')
               for _, dumps in picklers for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
        sys.stdout.write(' '.join(out) + '\n')


if __name__ == '__main__':
    main()
