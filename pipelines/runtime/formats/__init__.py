"""How messages become rows."""
