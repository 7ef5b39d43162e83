"""
A child that lies: it completes the handshake like an honest one, and then answers every call as argv[1] says, with text that
would move the cursor, change what is read, or pass for a line of mitogend's. Run by exec:.
"""
import ast
import os
import pickle
import struct
import sys
import zlib

HEADER = struct.Struct('>HLLLLLL')
FORWARD_LOG, CONNECT, IS_DEAD = 102, 991, 999

BAD = (u'\x1b]0;owned\x07\x1b[31mRED\x1b[2J\x1b[1A\x9b31m\x7f\x08\x00\u202eabc\u2066\u200f\u061c\u2028\r'
       u'\nmitogend: forged line\n99  ssh:prod  used\n').encode('utf-8') + b'\xff\x9b1A'
FLAT = BAD.replace(b'\0', b'')


def read(n):
    data = b''
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def handshake():
    os.write(1, b'banner ' + BAD + b'\nMITO000 %x\n' % sys.hexversion)
    size = b''
    while not size.endswith(b'\n'):
        size += read(1)
    conf = zlib.decompress(read(int(size))).split(b'\0')[1]
    os.write(1, b'MITO001\nMITO002\n')
    return ast.literal_eval(conf.decode())


def call_error(text):
    return b'\x80\x02cmitogen.core\n_unpickle_call_error\nX' + struct.pack('<L', len(text)) + text + b'\x85R.'


def main(mode):
    if mode == 'refuse':
        os.write(1, b'MITOERR no ' + FLAT.replace(b'\n', b' ') + b'\n')
        return
    if mode == 'end':
        os.write(2, BAD + b'\n')
        return
    config = handshake()
    me = config.get('config', config)['context_id']

    def send(handle, data, reply_to=0):
        data = HEADER.pack(0x4d49, 0, me, me, handle, reply_to, len(data)) + data
        while data:
            data = data[os.write(1, data):]

    while 1:
        _, _, _, _, handle, reply_to, n = HEADER.unpack(read(HEADER.size))
        read(n)
        if handle != 101 or not reply_to or reply_to == IS_DEAD:
            continue
        if mode == 'error':
            send(reply_to, call_error(b'builtins.Val' + FLAT.split(b'\n')[0] + b'Error: two' + FLAT + b'\n  File "x' + FLAT + b'", line 1, in f\n    mitogend: g()\n'))
        elif mode == 'dead':
            send(reply_to, b'reason ' + BAD, IS_DEAD)
        elif mode == 'global':
            send(reply_to, b'\x80\x02cos\x1b[31m\nsys\x1btem\n)R.')
        elif mode == 'result':
            send(reply_to, pickle.dumps({u'k\x1b\x9b\x7f\u202e': [u'v\x1b\x9b\x7f\u2066\u2028', b'b\x1b']}, 2))
        elif mode == 'log':
            send(FORWARD_LOG, b'log' + FLAT + b'ger\x0050\x00text ' + FLAT)
            # The name of a child of its own.
            send(CONNECT, pickle.dumps({'method': u'fork', 'name': FLAT.decode('utf-8', 'ignore'), 'via': me, 'launcher': 0, 'args': {}}, 2), 1999)
            send(reply_to, pickle.dumps(1, 2))
        elif mode == 'hang up':
            os.write(2, BAD)
            os._exit(7)


main(sys.argv[1].replace('_', ' '))
