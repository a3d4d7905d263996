"""Simulated walls with damage drawn over them, for training and for `--data sim`."""
