"""Is a camera showing what is there? Frozen, looped, replaced, covered, defocused and turned cameras."""
