from .rates import RATES


class Money(object):
    """An amount in hundredths of a currency's unit."""

    def __init__(self, cents, currency):
        self.cents = cents
        self.currency = currency

    def to(self, currency):
        """The same amount in another currency, rounded to the nearest hundredth."""
        return Money(int(round(self.cents * RATES[self.currency] / RATES[currency])), currency)

    def __add__(self, other):
        if other.currency != self.currency:
            raise ValueError('{0} and {1} cannot be added'.format(self.currency, other.currency))
        return Money(self.cents + other.cents, self.currency)

    def __str__(self):
        return '{0}.{1:02d} {2}'.format(self.cents // 100, self.cents % 100, self.currency)
