"""Quantities for people: bytes, counts and durations in a few characters. ``config.py`` reads them back."""


def in_bytes(count: float) -> str:
    """Bytes for people.

    >>> in_bytes(31_500_000), in_bytes(512), in_bytes(2_060)
    ('31.5 MB', '512 bytes', '2.06 kB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    if unit == "bytes":
        return f"{count:,.0f} bytes"
    return f"{count:.2f} {unit}" if count < 10 else f"{count:.1f} {unit}"


def in_count(count: float) -> str:
    """A count for people.

    >>> in_count(9_800_000), in_count(642), in_count(216_000)
    ('9.8M', '642', '216k')
    """
    for unit in ("", "k", "M", "B"):
        if abs(count) < 1000 or unit == "B":
            break
        count /= 1000
    return f"{count:.0f}{unit}" if not unit or abs(count) >= 100 else f"{count:.3g}{unit}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(178), duration(8), duration(3660)
    ('2m58s', '8s', '1h01m')
    """
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
