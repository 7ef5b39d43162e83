# A child fetches a file of the program's machine from the program's own file service.
import io
import os

import mitogen
import mitogen.core
import mitogen.service


@mitogen.core.takes_router
@mitogen.core.takes_econtext
def fetch(path, router, econtext):
    out = io.BytesIO()
    ok, metadata = mitogen.service.FileService.get(econtext.master, path, out)
    return ok, metadata['size'], len(out.getvalue())


@mitogen.main()
def main(router):
    service = mitogen.service.FileService(router)
    pool = mitogen.service.Pool(router, services=[service])
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')
    with open(path, 'wb') as fp:
        fp.write(b'x' * 3000000)
    service.register(mitogen.core.to_text(path))
    c = router.local()
    print(c.call(fetch, mitogen.core.to_text(path)))
    try:
        c.call(fetch, u'/etc/passwd')
    except mitogen.core.CallError as e:
        print(str(e).splitlines()[0])
    pool.stop()
