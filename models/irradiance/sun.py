"""Where the sun stands, and the irradiance of a cloudless sky, from a site's latitude, longitude, elevation and time.

The position follows the Astronomical Almanac's approximate formulas as in Michalsky, Solar Energy 40, 1988 (0.01 degrees from 1950
to 2050), the air mass Kasten and Young, Applied Optics 28, 1989, the cloudless irradiance Bird and Hulstrom, SERI/TR-642-761, 1981,
with the water in the air from its humidity (Gueymard, Solar Energy 53, 1994), or a usual amount where the humidity is not known.

The features of the source (arXiv 2604.13455: Cooper's declination, a factor of 0.7, the clock's hour as the hour angle) were
computed for 14.70 N 33.19 E, while its data are from 15.57 N 32.47 E. Here the point is always the site's own, and so is the sun's
time: no time zone is involved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SOLAR_CONSTANT = 1361.0
"""Irradiance outside the atmosphere at the mean distance of the sun, W/m2."""
AEROSOL = 0.1
"""Optical depth of aerosols at 500 nm at sea level."""
WATER = 1.5
"""Precipitable water where the humidity is not known, cm at sea level."""
FADES = 1500.0
"""Height over which aerosols and the usual water halve, m."""
OZONE = 0.3  # cm
BROADBAND = 0.72  # depth over all wavelengths for one at 500 nm, of rural aerosols
FORWARD = 0.84  # share of the scattered light that aerosols scatter forward
ALBEDO = 0.2
PARTS = 4
"""Moments at which an interval's mean is taken."""
J2000_MS = 946_728_000_000
DAY_MS = 86_400_000


class Position(NamedTuple):
    """Where the sun stands: `elevation` above the horizon without refraction, and `azimuth` from north over east, degrees."""

    elevation: Array
    azimuth: Array
    distance: Array
    """From the earth, in astronomical units."""

    @property
    def height(self) -> Array:
        """Sine of the elevation, 0 below the horizon: the share of the beam that falls on level ground."""
        return np.maximum(np.sin(np.radians(self.elevation)), 0)

    @property
    def outside(self) -> Array:
        """Irradiance on a level plane outside the atmosphere, W/m2."""
        return SOLAR_CONSTANT / self.distance**2 * self.height


def position(time: Array, latitude: Array, longitude: Array) -> Position:
    """The sun's position.

    Args:
        time: ms since 1970 UTC, `[B]`.
        latitude, longitude: degrees, north and east positive, `[B]`.
    """
    n = (time - J2000_MS) / DAY_MS
    mean_longitude = np.mod(280.460 + 0.9856474 * n, 360)
    anomaly = np.radians(np.mod(357.528 + 0.9856003 * n, 360))
    ecliptic = np.radians(mean_longitude + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * n)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
    sidereal = 6.697375 + 0.0657098242 * n + np.mod(time, DAY_MS) / 3_600_000  # hours at Greenwich
    hour = np.radians(np.mod(sidereal, 24) * 15 + longitude) - right_ascension
    phi = np.radians(latitude)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    distance = 1.00014 - 0.01671 * np.cos(anomaly) - 0.00014 * np.cos(2 * anomaly)
    elevation = np.degrees(np.arcsin(np.clip(up, -1, 1)))
    return Position(elevation, np.mod(np.degrees(np.arctan2(east, north)), 360), distance)


def water(temperature: Array, humidity: Array, elevation: Array) -> Array:
    """Precipitable water, cm, from the air at the ground (Gueymard, Solar Energy 53, 1994); the usual one where it is not known.

    Args:
        temperature: degrees Celsius; NaN if unknown.
        humidity: relative, %; NaN if unknown.
        elevation: of the site, m.
    """
    kelvin = temperature + 273.15
    theta = kelvin / 273.15
    height = 0.4976 + 1.5265 * theta + np.exp(13.6897 * theta - 14.9188 * theta**3)
    vapour = np.exp(22.330 - 49.140 * (100 / kelvin) - 10.922 * (100 / kelvin) ** 2 - 0.39015 * kelvin / 100)
    found = 0.1 * height * 216.7 * np.clip(humidity, 1, 100) / (100 * kelvin) * vapour
    usual = WATER * 0.5 ** (elevation / FADES)
    return np.clip(np.where(np.isfinite(found), found, usual), 0.1, 8)


class ClearSky(NamedTuple):
    """Irradiance of a cloudless sky, W/m2: global, on a plane to the sun, and diffuse."""

    ghi: Array
    dni: Array
    dhi: Array


def clear_sky(sun: Position, elevation: Array, precipitable: Array, aerosol: Array | float = AEROSOL) -> ClearSky:
    """The irradiance of a cloudless sky, 0 while the sun is below the horizon.

    Args:
        elevation: of the site, m.
        precipitable: water in the air, cm.
        aerosol: optical depth of aerosols at 500 nm at sea level.
    """
    with np.errstate(all="ignore"):
        up = sun.elevation > 0
        apparent = np.maximum(sun.elevation, 0)
        mass = 1 / (np.sin(np.radians(apparent)) + 0.50572 * (apparent + 6.07995) ** -1.6364)
        thick = mass * np.exp(-elevation / 8434.5)  # by the pressure of the site
        rayleigh = np.exp(-0.0903 * thick**0.84 * (1 + thick - thick**1.01))
        o = OZONE * mass
        ozone = 1 - 0.1611 * o * (1 + 139.48 * o) ** -0.3035 - 0.002715 * o / (1 + 0.044 * o + 0.0003 * o**2)
        gases = np.exp(-0.0127 * thick**0.26)
        w = precipitable * mass
        vapour = 1 - 2.4959 * w / ((1 + 79.034 * w) ** 0.6828 + 6.385 * w)
        depth = aerosol * BROADBAND * 0.5 ** (elevation / FADES)
        haze = np.exp(-(depth**0.873) * (1 + depth - depth**0.7088) * mass**0.9108)
        absorbed = 1 - 0.1 * (1 - mass + mass**1.06) * (1 - haze)
        outside = SOLAR_CONSTANT / sun.distance**2
        dni = np.where(up, 0.9662 * outside * haze * vapour * gases * ozone * rayleigh, 0)
        scattered = 0.5 * (1 - rayleigh) + FORWARD * (1 - haze / absorbed)
        scattered = scattered * outside * sun.height * 0.79 * ozone * vapour * gases * absorbed
        scattered = scattered / (1 - mass + mass**1.02)
        sky = 0.0685 + (1 - FORWARD) * (1 - haze / absorbed)
        ghi = np.where(up, (dni * sun.height + scattered) / (1 - ALBEDO * sky), 0)
        return ClearSky(ghi, dni, np.maximum(ghi - dni * sun.height, 0))


class Expected(NamedTuple):
    """The sun in the middle of an interval, and the mean of the cloudless sky over it, W/m2."""

    sun: Position
    ghi: Array
    outside: Array
    """Outside the atmosphere, W/m2."""
    highest: Array
    """The sun's highest elevation within the interval, degrees."""


def expected(time: Array, averaged: Array, place: tuple[Array, Array, Array], precipitable: Array) -> Expected:
    """What sites would read under a cloudless sky.

    Args:
        time: ms since 1970 UTC, the ends of the intervals, `[B]`.
        averaged: lengths of the intervals, minutes; 0: an instant.
        place: latitude, longitude, elevation.
        precipitable: water in the air, cm.
    """
    latitude, longitude, elevation = place
    span = averaged * 60_000
    sun = position(time - span / 2, latitude, longitude)
    if not bool((span > 0).any()):
        return Expected(sun, clear_sky(sun, elevation, precipitable).ghi, sun.outside, sun.elevation)
    parts = [position(time - span * (part + 0.5) / PARTS, latitude, longitude) for part in range(PARTS)]
    skies = [clear_sky(part, elevation, precipitable).ghi for part in parts]
    highest = np.max([part.elevation for part in parts], axis=0)
    return Expected(sun, np.mean(skies, axis=0), np.mean([part.outside for part in parts], axis=0), highest)
