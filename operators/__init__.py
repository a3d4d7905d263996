"""Attention operators, one per file: a naive form (the oracle of its tests), a fast form, and a module if it has weights.

torch is the only dependency. The files import only `tocsin.operators.shapes` from each other; it reports wrong shapes and dtypes.
"""
