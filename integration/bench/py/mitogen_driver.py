"""Mitogen's own master as a peer. Its path comes first on sys.path, then the children's modules."""

import importlib
import os
import sys
import threading

import peer

if os.environ.get('BENCH_MITOGEN'):
    sys.path.insert(0, os.environ['BENCH_MITOGEN'])

import mitogen.core
import mitogen.master
import mitogen.service

import bench_child

now = peer.now


def connect_all(router, n, width, **kwargs):
    """n children, width at a time, as a program with a thread pool would. Threads are Mitogen's way to connect in parallel."""
    contexts = [None] * n
    errors = []
    todo = iter(range(n))
    lock = threading.Lock()

    def work():
        while not errors:
            with lock:
                i = next(todo, None)
            if i is None:
                return
            try:
                contexts[i] = router.local(**kwargs)
            except Exception as e:
                errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(min(n, width))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return contexts


class Base(peer.Experiment):
    def setup(self):
        for d in reversed(self.params.get('path') or []):
            sys.path.insert(0, d)
        self.start_router()
        self.start()

    def start_router(self):
        self.broker = mitogen.master.Broker()
        self.router = mitogen.master.Router(self.broker)

    def start(self):
        pass

    def connect(self, **kwargs):
        if 'ssh_config' in self.params:
            return self.router.ssh(hostname='127.0.0.1', ssh_args=['-F', self.params['ssh_config']], check_host_keys='ignore',
                                   python_path=self.python, connect_timeout=60, **kwargs)
        return self.router.local(python_path=self.python, connect_timeout=60, **kwargs)

    def close(self):
        self.broker.shutdown()
        self.broker.join()


class Connect(Base):
    """One child at a time; what comes after the connect is not timed."""

    def sample(self, n):
        cpu, t = peer.cpu_self(), now()
        context = self.connect()
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        t = now()
        context.call(os.getpid)
        first = now() - t
        context.shutdown(wait=True)
        return {'seconds': seconds, 'master_cpu': cpu, 'ready_seconds': seconds + first}


class Concurrent(Base):
    """n children, all of them alive at once, then all of them ended. CPU is that of their whole life."""

    def start_router(self):
        pass

    def sample(self, n):
        Base.start_router(self)
        count = self.params['n']
        cpu, kids, t = peer.cpu_self(), peer.cpu_children(), now()
        contexts = connect_all(self.router, count, self.params.get('width', count), python_path=self.python,
                               connect_timeout=300)
        seconds = now() - t
        for latch in [c.shutdown() for c in contexts]:
            latch.get()
        self.broker.shutdown()
        self.broker.join()
        peer.reap_all()
        return {
            'seconds': seconds,
            'cpu': peer.cpu_self() - cpu + peer.cpu_children() - kids,
            'master_cpu': peer.cpu_self() - cpu,
        }

    def close(self):
        pass


class Memory(Base):
    def sample(self, n):
        before = set(peer.children())
        context = self.connect()
        context.call(os.getpid)
        (pid,) = set(peer.children()) - before
        rss = peer.status_kb('VmRSS', pid)
        context.shutdown(wait=True)
        return {'rss': rss * 1024}


class Payload(Base):
    """Bytes that the wrapper in front of the interpreter saw go by until the connect returned."""

    def sample(self, n):
        context = self.connect()
        with open(self.params['count_file']) as fp:
            args, stdin = map(int, fp.read().split())
        context.shutdown(wait=True)
        return {'bytes': stdin, 'args_bytes': args}


class Calls(Base):
    def start(self):
        self.context = self.connect()

    def sample(self, n):
        call, count = self.context.call, self.params['n']
        cpu, t = peer.cpu_self(), now()
        for _ in range(count):
            call(os.getpid)
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        return {'seconds': seconds / count, 'cpu_10k': cpu / count * 10000}


class Pipeline(Base):
    def start(self):
        self.context = self.connect()

    def sample(self, n):
        call, count = self.context.call_async, self.params['n']
        t = now()
        for recv in [call(os.getpid) for _ in range(count)]:
            recv.get().unpickle()
        return {'per_second': count / (now() - t)}


class Fanout(Base):
    def start(self):
        self.contexts = connect_all(self.router, self.params['n'], 16, python_path=self.python, connect_timeout=300)

    def sample(self, n):
        t = now()
        for recv in [c.call_async(os.getpid) for c in self.contexts]:
            recv.get().unpickle()
        return {'seconds': now() - t}


class Hops(Base):
    """A chain of children, each started by the one before; calls go to the last."""

    def start(self):
        via = None
        for _ in range(self.params['depth']):
            kwargs = {'via': via} if via else {}
            via = self.connect(**kwargs)
        self.last = via

    def sample(self, n):
        count = self.params['n']
        t = now()
        for _ in range(count):
            self.last.call(os.getpid)
        return {'seconds': (now() - t) / count}


class Bulk(Base):
    """One argument of size bytes to the child, one result of that size back. Bytes, as a program would pass them."""

    def start(self):
        self.context = self.connect()
        self.data = bench_child.blob(self.params['size'])
        self.context.call(bench_child.prepare, len(self.data))

    def sample(self, n):
        size, count = len(self.data), self.params.get('n', 1)
        t = now()
        for _ in range(count):
            if self.context.call(bench_child.size, self.data) != size:
                raise ValueError('the child got another size')
        to = now() - t
        t = now()
        for _ in range(count):
            if len(self.context.call(bench_child.blob, size)) != size:
                raise ValueError('the child sent another size')
        back = now() - t
        return {
            'arg_rate': size * count / to, 'result_rate': size * count / back,
            'arg_seconds': to / count, 'result_seconds': back / count,
        }


class Route(Base):
    """pairs of children, A sends to B through this process."""

    def start(self):
        import bench_route
        self.route = bench_route
        contexts = connect_all(self.router, 2 * self.params['pairs'], 16, python_path=self.python, connect_timeout=300)
        self.pairs = list(zip(contexts[::2], contexts[1::2]))
        self.senders = [b.call(bench_route.receiver, 'bench') for _, b in self.pairs]
        # The first message includes imports and making the data.
        self.run(1)
        peer.reset_peak()

    def run(self, count):
        size = self.params['size']
        drains = [b.call_async(self.route.drain, 'bench', count) for _, b in self.pairs]
        pumps = [a.call_async(self.route.pump, s, size, count) for (a, _), s in zip(self.pairs, self.senders)]
        peak = max(p.get().unpickle() for p in pumps)
        total = sum(d.get().unpickle() for d in drains)
        if total != size * count * len(self.pairs):
            raise ValueError('%d bytes arrived' % total)
        return peak

    def sample(self, n):
        count = self.params['n']
        t = now()
        peak = self.run(count)
        seconds = now() - t
        return {
            'rate': self.params['size'] * count * len(self.pairs) / seconds,
            'sender_peak': peak * 1024,
            'master_peak': peer.status_kb('VmHWM') * 1024,
        }


class File(Base):
    def start(self):
        import bench_file
        self.fetch = bench_file.fetch
        service = mitogen.service.FileService(self.router)
        self.pool = mitogen.service.Pool(self.router, services=[service])
        service.register(self.params['file'])
        self.context = self.connect()

    def sample(self, n):
        cpu, t = peer.cpu_self(), now()
        size = self.context.call(self.fetch, self.params['file'])
        seconds, cpu = now() - t, peer.cpu_self() - cpu
        if size != self.params['size']:
            raise ValueError('%d bytes arrived' % size)
        return {'rate': size / seconds, 'cpu_gb': cpu / size * 1e9}

    def close(self):
        self.pool.stop()
        Base.close(self)


class Import(Base):
    """A call to a function of a module that imports a package the child does not have."""

    def start(self):
        # The child's first call is not part of the import.
        self.context = self.connect()
        self.context.call(os.getpid)
        self.module = importlib.import_module(self.params['module'])

    def sample(self, n):
        t = now()
        self.context.call(self.module.done)
        first = now() - t
        stats = self.router.responder
        metrics = {'seconds': first, 'get_modules': stats.get_module_count, 'bytes': stats.good_load_module_size}

        # The same again for a second child: now the master has everything in its cache.
        self.context.shutdown(wait=True)
        self.context = self.connect()
        self.context.call(os.getpid)
        t = now()
        self.context.call(self.module.done)
        metrics['warm_seconds'] = now() - t
        return metrics


class Module(Base):
    """One module of some size, a fresh one each time."""

    def start(self):
        self.context = self.connect()
        self.context.call(bench_child.nothing)

    def sample(self, n):
        t = now()
        self.context.call(bench_child.import_name, self.params['prefix'] + str(n))
        return {'seconds': now() - t}


class Idle(Base):
    """What one more idle child costs this process."""

    def start_router(self):
        pass

    def sample(self, n):
        Base.start_router(self)
        few = connect_all(self.router, 20, 8, python_path=self.python)
        rss, fds = peer.status_kb('VmRSS'), peer.descriptors()
        count = self.params['n']
        more = connect_all(self.router, count, 8, python_path=self.python)
        rss, fds = peer.status_kb('VmRSS') - rss, peer.descriptors() - fds
        for latch in [c.shutdown() for c in few + more]:
            latch.get()
        self.broker.shutdown()
        self.broker.join()
        return {'bytes': rss * 1024.0 / count, 'descriptors': float(fds) / count}

    def close(self):
        pass


class Fleet(Base):
    """The life of n children: connected and called, called again, ended."""

    def start_router(self):
        pass

    def sample(self, n):
        metrics = {}
        step = peer.steps(metrics)
        Base.start_router(self)
        contexts = connect_all(self.router, self.params['n'], 16, python_path=self.python, connect_timeout=300)
        self.call(contexts)
        step('connect')
        self.call(contexts)
        step('call')
        metrics['memory'] = peer.status_kb('VmRSS') * 1024
        for latch in [c.shutdown() for c in contexts]:
            latch.get()
        step('end')
        self.broker.shutdown()
        self.broker.join()
        return metrics

    def call(self, contexts):
        for recv in [c.call_async(os.getpid) for c in contexts]:
            recv.get().unpickle()

    def close(self):
        pass


if __name__ == '__main__':
    peer.serve({
        'connect': Connect,
        'concurrent': Concurrent,
        'memory': Memory,
        'payload': Payload,
        'calls': Calls,
        'pipeline': Pipeline,
        'fanout': Fanout,
        'hops': Hops,
        'bulk': Bulk,
        'route': Route,
        'file': File,
        'import': Import,
        'module': Module,
        'idle': Idle,
        'fleet': Fleet,
    })
