"""Egocentric video: the frame in which a hand makes contact with a thing, and the frame in which it lets go."""
