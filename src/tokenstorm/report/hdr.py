"""HdrHistogram's log format, version 1.3: for each second of the timeline a histogram of each time, by tag.

Its public tools read it, merge intervals and draw percentiles. Values are nanoseconds; the interval's maximum is in
milliseconds, as these tools write it.
"""

import base64
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.histogram import Histogram

_DIGITS = 3
_SUB_BITS = 11
"""2048 steps to a doubling and below: three significant digits."""
_HALF = 1 << (_SUB_BITS - 1)
_HIGHEST = 86400 * 10**9
_V2, _V2_COMPRESSED = 0x1C849313, 0x1C849314
_HEAD = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


def hdr_log(lines: Iterable[TimelineLine], started_at: str | None) -> Iterator[str]:
    """The lines of the log, without their ends."""
    start = datetime.fromisoformat(started_at).timestamp() if started_at else 0.0
    yield "#[Histogram log format version 1.3]"
    yield f"#[StartTime: {start:.3f} (seconds since epoch), {started_at or 'unknown'}]"
    yield f"#[BaseTime: {start:.3f} (seconds since epoch)]"
    yield _HEAD
    for line in lines:
        for name, histogram in line.histograms.items():
            most = (histogram.maximum or 0) / 1e6
            yield f"Tag={name},{line.t:.3f},1.000,{most:.6f},{_encoded(histogram)}"


def _encoded(histogram: Histogram) -> str:
    """One histogram as base64 of the compressed second version of their encoding."""
    counts = Counter[int]()
    for value, count in histogram.values():
        counts[_index(value)] += count
    payload = b"".join(_zigzag(number) for number in _runs(counts))
    highest = max(_HIGHEST, 2 * (histogram.maximum or 0))
    plain = struct.pack(">iiiiqqd", _V2, len(payload), 0, _DIGITS, 1, highest, 1.0) + payload
    packed = zlib.compress(plain)
    return base64.b64encode(struct.pack(">ii", _V2_COMPRESSED, len(packed)) + packed).decode()


def _index(value: int) -> int:
    """Where HdrHistogram counts a value."""
    bucket = max(0, value.bit_length() - _SUB_BITS)
    return ((bucket + 1) << (_SUB_BITS - 1)) + (value >> bucket) - _HALF


def _runs(counts: Counter[int]) -> Iterator[int]:
    """The counts in order; a number below 0 stands for so many zeros."""
    following = 0
    for index in sorted(counts):
        if gap := index - following:
            yield -gap if gap > 1 else 0
        yield counts[index]
        following = index + 1


def _zigzag(number: int) -> bytes:
    """ZigZag LEB128, at most nine bytes: the ninth has eight bits."""
    left = (number << 1) ^ (number >> 63)
    coded = bytearray()
    while left > 0x7F and len(coded) < 8:  # noqa: PLR2004 - seven bits a byte
        coded.append(left & 0x7F | 0x80)
        left >>= 7
    coded.append(left)
    return bytes(coded)
