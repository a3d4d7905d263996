"""Attention operators: each a file with a naive form (the oracle), a fast form, a module where it has weights.

torch is the one dependency. Each file stands alone but for `tocsin.operators.shapes`, which names a wrong shape or dtype.
"""
