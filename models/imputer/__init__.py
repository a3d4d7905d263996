"""The imputer: a small network that fills gaps in a grid of sensors x times; a domain may store one with its model."""
