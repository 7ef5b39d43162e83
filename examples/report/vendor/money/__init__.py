"""Amounts of money: stands for any package that was installed from somewhere."""
from .amount import Money
from .rates import RATES

__all__ = ['Money', 'RATES']
