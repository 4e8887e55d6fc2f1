"""What is said of a file that cannot be decoded."""

import pytest

from tokenstorm.errors import RunError
from tokenstorm.loadgen.live import TimelineLine
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.written import decode


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b'{"counts" 1}', Histogram, "is damaged: JSON is malformed"),
        (b'{"counts": {"5": 1}', Histogram, "is damaged: input data was truncated"),
        (b'{"count": "many"}', Histogram, "is damaged: `count`: expected `int`, got `str`"),
        (b'{"counts": {"-1": 1}}', Histogram, "is damaged: `counts`: expected `int` >= 0"),
        (b"[]", Histogram, "is damaged: expected `object`, got `array`"),
        (b'{"schema": 1}', TimelineLine, "is damaged: object missing required field `t`"),
    ],
)
def test_a_fault_is_named_by_its_field_and_begins_small_unless_it_begins_with_a_name(
    data: bytes, kind: type, words: str
) -> None:
    with pytest.raises(RunError) as raised:
        decode(data, kind, "file.json")
    assert str(raised.value).startswith(f"file.json {words}")
