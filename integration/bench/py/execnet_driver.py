"""execnet as a peer, where it has something to compare: it has no importer, no calls by name and no routing between children."""

import threading

import peer

import execnet

import bench_child

now = peer.now

ECHO = 'for item in channel: channel.send(item)'
SIZES = 'for item in channel: channel.send(len(item))'
BLOBS = '''
import os
blobs = {}
for n in channel:
    if n not in blobs:
        blobs[n] = (os.urandom(65536) * (n // 65536 + 1))[:n]
    channel.send(blobs[n])
'''
FILE = '''
with open('/dev/null', 'wb') as fp:
    for chunk in channel:
        if not chunk:
            channel.send(0)
        fp.write(chunk)
'''


class Base(peer.Experiment):
    def setup(self):
        self.group = execnet.Group()
        self.start()

    def start(self):
        pass

    def connect(self):
        return self.group.makegateway('popen//python=%s' % self.python)

    def connect_all(self, n, width):
        gateways, errors = [], []
        todo = iter(range(n))
        lock = threading.Lock()

        def work():
            while not errors:
                with lock:
                    if next(todo, None) is None:
                        return
                try:
                    gateways.append(self.connect())
                except Exception as e:
                    errors.append(e)

        threads = [threading.Thread(target=work) for _ in range(min(n, width))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if errors:
            raise errors[0]
        return gateways

    def close(self):
        self.group.terminate(timeout=10)


class Connect(Base):
    def sample(self, n):
        cpu, t = peer.cpu_self(), now()
        gateway = self.connect()
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        t = now()
        gateway.remote_exec('import os; channel.send(os.getpid())').receive()
        first = now() - t
        self.group.terminate(timeout=10)
        return {'seconds': seconds, 'master_cpu': cpu, 'ready_seconds': seconds + first}


class Concurrent(Base):
    def sample(self, n):
        count = self.params['n']
        cpu, kids, t = peer.cpu_self(), peer.cpu_children(), now()
        self.connect_all(count, self.params.get('width', count))
        seconds = now() - t
        self.group.terminate(timeout=60)
        peer.reap_all()
        return {
            'seconds': seconds,
            'cpu': peer.cpu_self() - cpu + peer.cpu_children() - kids,
            'master_cpu': peer.cpu_self() - cpu,
        }


class Memory(Base):
    def sample(self, n):
        before = set(peer.children())
        gateway = self.connect()
        gateway.remote_exec('import os; channel.send(os.getpid())').receive()
        (pid,) = set(peer.children()) - before
        rss = peer.status_kb('VmRSS', pid)
        self.group.terminate(timeout=10)
        return {'rss': rss * 1024}


class Payload(Base):
    def sample(self, n):
        self.connect()
        with open(self.params['count_file']) as fp:
            args, stdin = map(int, fp.read().split())
        self.group.terminate(timeout=10)
        return {'bytes': stdin, 'args_bytes': args}


class Calls(Base):
    def start(self):
        self.channel = self.connect().remote_exec(ECHO)

    def sample(self, n):
        send, receive, count = self.channel.send, self.channel.receive, self.params['n']
        cpu, t = peer.cpu_self(), now()
        for i in range(count):
            send(i)
            receive()
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        return {'seconds': seconds / count, 'cpu_10k': cpu / count * 10000}


class Pipeline(Calls):
    def sample(self, n):
        count = self.params['n']
        t = now()
        for i in range(count):
            self.channel.send(i)
        for _ in range(count):
            self.channel.receive()
        return {'per_second': count / (now() - t)}


class Fanout(Base):
    def start(self):
        self.channels = [g.remote_exec(ECHO) for g in self.connect_all(self.params['n'], 16)]
        self.sample(0)

    def sample(self, n):
        t = now()
        for c in self.channels:
            c.send(1)
        for c in self.channels:
            c.receive()
        return {'seconds': now() - t}


class Bulk(Base):
    def start(self):
        gateway = self.connect()
        self.sizes = gateway.remote_exec(SIZES)
        gateway2 = self.connect()  # a gateway runs one source at a time
        self.blobs = gateway2.remote_exec(BLOBS)
        self.data = bench_child.blob(self.params['size'])
        self.blobs.send(len(self.data))
        self.blobs.receive()

    def sample(self, n):
        size, count = len(self.data), self.params.get('n', 1)
        t = now()
        for _ in range(count):
            self.sizes.send(self.data)
            if self.sizes.receive() != size:
                raise ValueError('the child got another size')
        to = now() - t
        t = now()
        for _ in range(count):
            self.blobs.send(size)
            if len(self.blobs.receive()) != size:
                raise ValueError('the child sent another size')
        back = now() - t
        return {
            'arg_rate': size * count / to, 'result_rate': size * count / back,
            'arg_seconds': to / count, 'result_seconds': back / count,
        }


class File(Base):
    """Chunks over a channel. execnet has no flow control, so its own process holds all that the child has not read yet."""

    def start(self):
        self.channel = self.connect().remote_exec(FILE)

    def sample(self, n):
        cpu, t = peer.cpu_self(), now()
        with open(self.params['file'], 'rb') as fp:
            for chunk in iter(lambda: fp.read(1 << 18), b''):
                self.channel.send(chunk)
        self.channel.send(b'')
        self.channel.receive()
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        return {'rate': self.params['size'] / seconds, 'cpu_gb': cpu / self.params['size'] * 1e9}


class Idle(Base):
    def sample(self, n):
        self.connect_all(20, 8)
        rss, fds = peer.status_kb('VmRSS'), peer.descriptors()
        count = self.params['n']
        self.connect_all(count, 8)
        rss, fds = peer.status_kb('VmRSS') - rss, peer.descriptors() - fds
        self.group.terminate(timeout=60)
        return {'bytes': rss * 1024.0 / count, 'descriptors': float(fds) / count}


class Fleet(Base):
    """The life of n children: connected and called, called again, ended."""

    def sample(self, n):
        metrics = {}
        step = peer.steps(metrics)
        channels = [g.remote_exec(ECHO) for g in self.connect_all(self.params['n'], 16)]
        self.call(channels)
        step('connect')
        self.call(channels)
        step('call')
        metrics['memory'] = peer.status_kb('VmRSS') * 1024
        for c in channels:
            c.close()
        self.group.terminate(timeout=60)
        step('end')
        return metrics

    def call(self, channels):
        for c in channels:
            c.send(1)
        for c in channels:
            c.receive()


if __name__ == '__main__':
    peer.serve({
        'connect': Connect,
        'concurrent': Concurrent,
        'memory': Memory,
        'payload': Payload,
        'calls': Calls,
        'pipeline': Pipeline,
        'fanout': Fanout,
        'bulk': Bulk,
        'file': File,
        'idle': Idle,
        'fleet': Fleet,
    })
