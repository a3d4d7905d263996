"""Whether a room is occupied, from the air in it."""
