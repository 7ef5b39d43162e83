"""Workers of children: forked ones that import nothing. A child of Mitogen's runtime cannot have other kinds of workers."""
import multiprocessing

import mitogen.utils


def double(n):
    return n * 2


def pool(n):
    workers = getattr(multiprocessing, 'get_context', lambda _: multiprocessing)('fork').Pool(n)
    try:
        return workers.map(double, range(6))
    finally:
        workers.close()
        workers.join()


def main(router):
    hop = router.local(name='hop')
    for context in hop, router.local(name='behind', via=hop):
        print(context.call(pool, 3))
        print(context.call(pool, 2))


if __name__ == '__main__':
    mitogen.utils.run_with_router(main)
