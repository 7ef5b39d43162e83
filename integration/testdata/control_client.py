"""An independent client of control.sock: Debian's python3-msgpack and a socket. Run by control_test.go; prints what it got."""
import json
import os
import socket
import sys

import msgpack


class Failure(Exception):
    pass


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, use_list=False)
        self.last = 0
        self.answers = {}

    def post(self, method, **params):
        self.last += 1
        self.sock.sendall(msgpack.packb([0, self.last, method, [params]]))
        return self.last

    def wait(self, msgid):
        while msgid not in self.answers:
            for kind, got, error, result in self.unpacker:
                assert kind == 1
                self.answers[got] = error, result
            if msgid in self.answers:
                break
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError('the daemon hung up')
            self.unpacker.feed(data)
        error, result = self.answers.pop(msgid)
        if error is not None:
            raise Failure(error)
        return result

    def call(self, method, **params):
        return self.wait(self.post(method, **params))

    def notify(self, method, **params):
        self.sock.sendall(msgpack.packb([2, method, [params]]))

    def stream(self, method, **params):
        got = self.call(method, **params)
        while True:
            for item in got['items']:
                yield item
            if got['end']:
                return
            got = self.call('read', stream=got['stream'])


def main(path, target, lib):
    c = Client(path)
    out = {}
    source = {'path': [lib]}
    child = c.call('connect', target=target, source=source)
    out['python'] = list(child['python'])
    out['echo'] = [c.call('call', child=child['child'], function='mod:echo', args=[v]) == v
                   for v in (None, True, 42, -7, 1.5, 'text \u00fc', b'\x00\xff', 'x' * 100000, {'a': 1, 2: 'b'})]
    out['tuple'] = c.call('call', child=child['child'], function='mod:pair', exact=True).code
    out['plain'] = list(c.call('call', child=child['child'], function='mod:pair'))
    out['kwargs'] = c.call('call', target=target, source=source, function='mod:add', args=[1], kwargs={'b': 2})
    try:
        c.call('call', child=child['child'], function='mod:fail', args=['why'])
    except Failure as e:
        out['error'] = [e.args[0]['kind'], e.args[0]['type'].split('.')[1], e.args[0]['message']]
    try:
        c.call('call', child=child['child'], function='time:sleep', args=[100], timeout=0.1)
    except Failure as e:
        out['timeout'] = e.args[0]['kind']
    # The child is busy now; the daemon makes another for the target.
    ids = [c.post('call', target=target, source=source, function='mod:echo', args=[i]) for i in range(100)]
    out['pipelined'] = [c.wait(i) for i in reversed(ids)] == list(range(99, -1, -1))
    pending = c.post('call', target=target, source=source, function='time:sleep', args=[100])
    out['cancel'] = c.call('cancel', request=pending)
    try:
        c.wait(pending)
    except Failure as e:
        out['cancelled'] = e.args[0]['kind']
    items = list(c.stream('call_async', target=target, source=source, function='mod:say', args=['hello'], output=True, read=True))
    out['async'] = [[i['kind'], (i.get('data') or b'').decode(), i.get('value')] for i in items]
    script = b'import sys\nsys.stdout.write(sys.stdin.read().upper())\nsys.stderr.write(sys.argv[1])\nsys.exit(5)\n'
    run = c.call('run', target=target, source=source, path='x.py', script=script, argv=['arg'], stdin=True)
    c.call('write', stream=run['stream'], data=b'in ')
    c.call('write', stream=run['stream'], data=b'put', end=True)
    got = {'stdout': b'', 'stderr': b''}
    while not run['end']:
        run = c.call('read', stream=run['stream'])
        for i in run['items']:
            if i['kind'] == 'exit':
                out['exit'] = i.get('code', 0)
            else:
                got[i['kind']] += i['data']
    out['run'] = [got['stdout'].decode(), got['stderr'].decode()]
    channel = c.call('open', target=target, source=source, function='mod:pump', args=[10])
    for i in range(50):
        c.call('write', stream=channel['stream'], value=i)
    c.call('write', stream=channel['stream'], end=True)
    values = []
    while not channel['end']:
        channel = c.call('read', stream=channel['stream'])
        for i in channel['items']:
            values.append(i['value'])
    out['channel'] = values == [10 * i for i in range(50)] + [50]
    many = {'targets': [target] * 3, 'source': source, 'parallel': 2}
    out['call_many'] = sorted([i.get('target', 0), i['kind'], i['value']] for i in c.stream('call_many', function='mod:add', args=[1, 2], **many))
    run = c.call('run_many', path='x.py', script=script, stdin=True, target_argv={1: ['own']}, argv=['all'], **many)
    c.call('write', stream=run['stream'], data=b'input', end=True)
    got = {}
    while not run['end']:
        run = c.call('read', stream=run['stream'])
        for i in run['items']:
            one = got.setdefault(i.get('target', 0), {'stdout': b'', 'stderr': b''})
            if i['kind'] == 'exit':
                one['exit'] = i.get('code', 0)
            else:
                one[i['kind']] += i['data']
    out['run_many'] = [[g['stdout'].decode(), g['stderr'].decode(), g['exit']] for _, g in sorted(got.items())]
    channels = c.call('open_many', function='mod:pump', args=[10], **many)
    for n in 2, 1, 0:  # the last one begins late; nothing here waits for it
        c.post('write', stream=channels['stream'], target=n, value=n)
        c.post('write', stream=channels['stream'], target=n, end=True)
    got = {}
    while not channels['end']:
        channels = c.call('read', stream=channels['stream'])
        for i in channels['items']:
            got.setdefault(i.get('target', 0), []).append([i['kind'], i['value']])
    out['open_many'] = [g for _, g in sorted(got.items())]
    there = os.path.join(lib, 'there')
    got = list(c.stream('put', target=target, source=source, sources=[os.path.join(lib, 'mod.py')], dest=there + '/'))
    out['put'] = [[i['kind'], i['value']['files'], len(i['value']['errors'])] for i in got]
    got = list(c.stream('get', target=target, source=source, sources=[there], dest=os.path.join(lib, 'back'), sync=True, files=True, read=True))
    out['get'] = [[i['kind'], i['value']['files'] if 'value' in i else os.fsdecode(i['data'])] for i in got]
    try:
        c.call('get', target=target, source=source, sources=[there], dest='back')
    except Failure as e:
        out['relative'] = e.args[0]['kind']
    kept = c.call('connect', target=target, source=source)['child']
    receiver = c.call('receiver', child=kept)
    c.call('call', child=kept, function='mod:send', args=[receiver['sender'], 3])
    got = []
    while not receiver.get('end'):
        receiver = c.call('read', stream=receiver['stream'])
        got += [i['value'] for i in receiver['items']]
    out['receiver'] = got
    for want in 'first', 'first':
        try:
            c.call('call', child=kept, function='mod:fail', args=[want], chain='c')
        except Failure as e:
            out['chain'] = e.args[0]['message']
    c.call('reset_chain', child=kept, chain='c')
    out['after'] = c.call('call', child=kept, function='mod:echo', args=['ok'], chain='c')
    events = c.call('subscribe', kinds=['call'], target=target)
    c.notify('call', child=kept, function='mod:echo', args=[1])
    event = c.call('read', stream=events['stream'])['items'][0]['event']
    out['event'] = [event['kind'], event['function'], event['ok']]
    out['modules'] = [[m['name'], m['served']] for m in c.call('modules', names=['mod', 'nope'], source=source)['modules']]
    out['stats'] = c.call('stats')['clients'] >= 1
    out['list'] = any(x['id'] == kept for x in c.call('list')['contexts'])
    out['close'] = c.call('close', child=kept)['closed']
    json.dump(out, sys.stdout, sort_keys=True)


main(*sys.argv[1:])
