"""
A report about a shop's orders. It is an ordinary program: a main file, its own package beside it, and somebody else's
package in another directory, which knows nothing of mitogend.

    mitogend run -I examples/report -I examples/report/vendor examples/report/report.py
    mitogend run ... -H ssh:web1,ssh:web2 examples/report/report.py --currency USD

Nothing of it is written on the machines where it runs. Works with Python 2.7 and 3.6 and later.
"""
from __future__ import print_function

import argparse
import platform

from shop import orders
from shop.format import table


def main():
    parser = argparse.ArgumentParser(description='Sum up the orders of a shop.')
    parser.add_argument('--currency', default='EUR', help='what to convert to (default %(default)s)')
    args = parser.parse_args()
    rows = [(name, str(total)) for name, total in orders.totals(args.currency)]
    print('Orders, as Python {0} on {1} sees them:'.format(platform.python_version(), platform.system()))
    print(table(rows))


if __name__ == '__main__':
    main()
