"""Two cameras of different kind that look at one scene."""
