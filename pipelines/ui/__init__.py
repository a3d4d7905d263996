"""The live page, `tocsin ui`: a web page for a shift supervisor. `data` holds all that it shows, without any web code."""
