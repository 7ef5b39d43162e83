"""Shared by the drivers of the Python peers: the line protocol and the counters.

A driver is one process that holds one peer's master. It reads one JSON object a line from stdin and answers each with one
line on stdout:

    {"experiment": NAME, "params": {...}}   set up                -> {"ok": true}
    {"sample": N}                           measure once          -> {"ok": true, "metrics": {NAME: NUMBER}}
    end of file                             tear down and leave

A failure is {"ok": false, "error": TEXT}; {"ok": false, "unsupported": true, "error": TEXT} says that this peer has nothing
of the kind.
"""

import json
import os
import resource
import sys
import time
import traceback

sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'child'))

now = time.perf_counter


class Unsupported(Exception):
    pass


class Experiment(object):
    def __init__(self, params):
        self.params = params
        self.python = params.get('python')
        self.setup()

    def setup(self):
        pass

    def sample(self, n):
        raise NotImplementedError

    def close(self):
        pass


def cpu_self():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime


def cpu_children():
    """CPU of the descendants that were waited for, in seconds."""
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def children():
    """The pids of this process' direct children, zombies included."""
    pids = []
    for tid in os.listdir('/proc/self/task'):
        with open('/proc/self/task/%s/children' % tid) as fp:
            pids.extend(int(s) for s in fp.read().split())
    return sorted(pids)


def reap_all(timeout=60.0):
    """Wait until no child is left, so that cpu_children counts them all. The peer's own code may reap them, too."""
    deadline = now() + timeout
    while now() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except OSError:  # ChildProcessError: none left
            return
        if pid == 0:
            time.sleep(0.005)
    raise RuntimeError('%d children did not leave in %d s' % (len(children()), timeout))


def status_kb(key, pid='self'):
    with open('/proc/%s/status' % pid) as fp:
        for line in fp:
            if line.startswith(key + ':'):
                return int(line.split()[1])
    raise KeyError(key)


def reset_peak():
    """Sets VmHWM to the current resident size (Linux 4.0 and later)."""
    with open('/proc/self/clear_refs', 'w') as fp:
        fp.write('5')


def descriptors():
    return len(os.listdir('/proc/self/fd'))


def steps(metrics):
    """A function that notes the wall time, and the CPU of this process, since it was called last."""
    last = [now(), cpu_self()]

    def step(name):
        t, cpu = now(), cpu_self()
        metrics[name + '_seconds'], metrics[name + '_cpu'] = t - last[0], cpu - last[1]
        last[:] = now(), cpu_self()
    return step


def serve(experiments):
    # Children and libraries that print must not reach the line protocol.
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)

    current = None
    for line in iter(sys.stdin.readline, ''):
        request = json.loads(line)
        try:
            if 'experiment' in request:
                cls = experiments.get(request['experiment'])
                if cls is None:
                    raise Unsupported('no such thing in this peer')
                current = cls(request.get('params') or {})
                reply = {'ok': True}
            else:
                reply = {'ok': True, 'metrics': current.sample(request['sample'])}
        except Unsupported as e:
            reply = {'ok': False, 'unsupported': True, 'error': str(e)}
        except Exception as e:
            traceback.print_exc()
            reply = {'ok': False, 'error': '%s: %s' % (type(e).__name__, e)}
        out.write(json.dumps(reply) + '\n')
        out.flush()
    if current is not None:
        current.close()
