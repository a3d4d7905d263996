"""A simulated camera, and attacks on recordings."""
