"""What was ordered."""
from money import Money

ORDERS = [
    ('Ada', Money(1250, 'EUR')),
    ('Grace', Money(990, 'USD')),
    ('Ada', Money(310, 'EUR')),
    ('Linus', Money(4200, 'USD')),
]


def totals(currency):
    """The sum of each customer's orders, by name."""
    sums = {}
    for name, amount in ORDERS:
        sums[name] = sums.get(name, Money(0, currency)) + amount.to(currency)
    return sorted(sums.items())
