# A service of the program, called by its child, and a service in the child, called by the program.
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


@mitogen.core.takes_econtext
def ask(method, econtext, **kwargs):
    return econtext.master.call_service(u'__main__.Adder', method, **kwargs)


@mitogen.main()
def main(router):
    c = router.local()
    below = router.local(via=c)
    pool = mitogen.service.Pool(router, services=[Adder(router)])
    for context in (c, below):
        print(context.call(ask, 'add', a=1, b=2))
        try:
            context.call(ask, 'nothing')
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
        try:
            context.call(ask, 'secret')
        except mitogen.core.CallError as e:
            print(str(e).splitlines()[0])
    print(c.call_service(Adder, 'add', a=3, b=4))
    print(c.call_service(Adder, 'secret'))
    pool.stop()
