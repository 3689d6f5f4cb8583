"""Benchmarks: `python -m bench`. Figures are ratios within one run; say the machine when you quote them."""
