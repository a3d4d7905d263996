"""The demo: a pipeline over a simulated fleet of engines."""
