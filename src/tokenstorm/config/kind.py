"""For which nodes a job is."""

from typing import Literal

Kind = Literal["cpu", "gpu"]
