# What one unit is worth in euros; made up.
RATES = {'EUR': 1.0, 'USD': 0.5}
