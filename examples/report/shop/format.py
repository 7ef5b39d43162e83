"""Text for people."""


def table(rows):
    """Two columns, the second one flush right."""
    left = max(len(a) for a, _ in rows)
    right = max(len(b) for _, b in rows)
    return '\n'.join('  {0:<{1}}  {2:>{3}}'.format(a, left, b, right) for a, b in rows)
