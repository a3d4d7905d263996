"""Training with labels of which some are wrong: robust losses, the split of right and wrong labels, and the recipe of both."""
