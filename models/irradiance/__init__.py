"""Solar irradiance of the next hour, from a site's readings and its own sun."""
