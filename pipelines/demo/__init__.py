"""The demo: a simulated fleet of engines, watched."""
