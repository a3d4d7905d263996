"""Trust in sensors: whether a window of readings is good, and if not, which channel is bad and why; of any kind of plant."""
