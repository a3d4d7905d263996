"""Structural damage: cracks, spalling and efflorescence in pictures of walls."""
