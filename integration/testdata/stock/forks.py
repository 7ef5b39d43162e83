# Contexts behind the program itself: a fork of it, and a child of that. They use its services and its log, and may no
# more than under Mitogen's own master.
import io
import logging
import os
import threading

import mitogen
import mitogen.core
import mitogen.service


class Adder(mitogen.service.Service):
    @mitogen.service.expose(policy=mitogen.service.AllowAny())
    def add(self, a, b):
        return a + b

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def secret(self):
        return 'told'


class Keep(logging.Handler):
    def __init__(self):
        logging.Handler.__init__(self)
        self.records = []
        self.changed = threading.Condition()

    def emit(self, record):
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    def find(self, text):
        with self.changed:
            while True:
                for record in self.records:
                    if record.getMessage().endswith(text):
                        return record
                self.changed.wait(30)


@mitogen.core.takes_econtext
def ask(method, econtext, **kwargs):
    return econtext.master.call_service(u'__main__.Adder', method, **kwargs)


@mitogen.core.takes_econtext
def fetch(path, econtext):
    out = io.BytesIO()
    ok, metadata = mitogen.service.FileService.get(econtext.master, path, out)
    return ok, metadata['size'], len(out.getvalue())


def log(text):
    logging.getLogger('theirs').error(text)


@mitogen.main()
def main(router):
    keep = Keep()
    logging.getLogger().addHandler(keep)
    fork = router.fork()
    below = router.local(via=fork)
    service = mitogen.service.FileService(router)
    pool = mitogen.service.Pool(router, services=[Adder(router), service])
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')
    with open(path, 'wb') as fp:
        fp.write(b'x' * 3000000)
    service.register(mitogen.core.to_text(path))
    for name, context in ('fork', fork), ('below', below):
        print(context.call(ask, 'add', a=1, b=2))
        for method in 'nothing', 'secret':
            try:
                context.call(ask, method)
            except mitogen.core.CallError as e:
                print(str(e).splitlines()[0])
        print(context.call(fetch, mitogen.core.to_text(path)))
        context.call(log, 'said by ' + name)
        record = keep.find('said by ' + name)
        print(record.levelname, record.mitogen_name, record.mitogen_context == context)
    pool.stop()
    try:
        fork.call(ask, 'add', a=1, b=2)
    except mitogen.core.ChannelError as e:
        print(e)
    except mitogen.core.CallError as e:
        print(str(e).splitlines()[0])
