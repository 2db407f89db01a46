"""When the sun rises and sets.

The equations are those of NOAA's solar calculator (Global Monitoring Laboratory, "Solar Calculation Details"), which
follow Jean Meeus, *Astronomical Algorithms*, chapters 25 and 28. Good to a minute between 72° south and north, to
some minutes beyond.
"""

from __future__ import annotations

from math import acos, asin, cos, degrees, radians, sin, tan

DAY = 86400.0
#: Julian day of the Unix epoch, and of the epoch J2000.0 that the equations count from.
_JULIAN_UNIX, _JULIAN_2000 = 2440587.5, 2451545.0
#: Degrees from the zenith at which the sun's upper edge is seen on the horizon: refraction and radius included.
_HORIZON = 90.833


def sun_time(day: int, latitude: float, longitude: float, rising: bool) -> float | None:
    """Unix seconds of the sunrise or sunset that belongs to the solar noon of a day (days since 1970-01-01).

    Degrees north and east are positive. None when the sun stays up or down all that day.
    """
    noon = (day + 0.5 - longitude / 360) * DAY
    moment = noon
    for _ in range(3):
        declination, ahead = _sun(moment)
        angle = _hour_angle(latitude, declination)
        if angle is None:
            return None
        moment = noon - ahead * 60 + (-angle if rising else angle) * 240
    return moment


def _hour_angle(latitude: float, declination: float) -> float | None:
    """Degrees between noon and the moment on the horizon; ``declination`` in radians."""
    north = radians(latitude)
    cosine = cos(radians(_HORIZON)) / (cos(north) * cos(declination)) - tan(north) * tan(declination)
    return degrees(acos(cosine)) if -1 <= cosine <= 1 else None


def _sun(moment: float) -> tuple[float, float]:
    """The sun's declination (radians) and the equation of time (minutes that a sundial is ahead)."""
    century = (moment / DAY + _JULIAN_UNIX - _JULIAN_2000) / 36525
    longitude = radians((280.46646 + century * (36000.76983 + century * 0.0003032)) % 360)
    anomaly = radians(357.52911 + century * (35999.05029 - 0.0001537 * century))
    eccentricity = 0.016708634 - century * (0.000042037 + 0.0000001267 * century)
    centre = (
        sin(anomaly) * (1.914602 - century * (0.004817 + 0.000014 * century))
        + sin(2 * anomaly) * (0.019993 - 0.000101 * century)
        + sin(3 * anomaly) * 0.000289
    )
    node = radians(125.04 - 1934.136 * century)
    apparent = longitude + radians(centre - 0.00569 - 0.00478 * sin(node))
    mean_tilt = 23 + (26 + (21.448 - century * (46.815 + century * (0.00059 - century * 0.001813))) / 60) / 60
    tilt = radians(mean_tilt + 0.00256 * cos(node))
    declination = asin(sin(tilt) * sin(apparent))
    square = tan(tilt / 2) ** 2
    equation = (
        square * sin(2 * longitude)
        - 2 * eccentricity * sin(anomaly)
        + 4 * eccentricity * square * sin(anomaly) * cos(2 * longitude)
        - 0.5 * square**2 * sin(4 * longitude)
        - 1.25 * eccentricity**2 * sin(2 * anomaly)
    )
    return declination, 4 * degrees(equation)
