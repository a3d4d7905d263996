"""Egocentric video: the frame in which a hand touches, and the one in which it lets go."""
