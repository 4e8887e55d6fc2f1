"""Everything tokenstorm raises on purpose.

    TokenstormError            the message says what happened, to what, and what to do next
    ├── UsageError             the user asked for something that makes no sense (exit code 2)
    │   └── PlanError          a plan that cannot be carried out as written; names the field
    └── RunError               a run that could not start, go on, or be read (exit code 1)
        └── PreflightError     the engine refused or never answered the first request

A request that fails is not an error but data: see `tokenstorm.result.Failure`.
"""


class TokenstormError(Exception):
    """Base of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(TokenstormError):
    """Something the user typed or wrote makes no sense as it stands."""

    exit_code = 2


class PlanError(UsageError):
    """A plan that cannot be carried out as written."""


class RunError(TokenstormError):
    """A run that could not start, could not go on, or whose files cannot be read."""


class PreflightError(RunError):
    """No replica answered the first request, or one refused it."""
