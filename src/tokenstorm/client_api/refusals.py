"""What the Client API cannot do as things stand."""

from tokenstorm.errors import TokenstormError, Unconfirmed


class NotNow(TokenstormError):
    """What was asked for does not fit how the group, or its service, stands."""


class SubmissionUnconfirmed(Unconfirmed):
    """A group's job was submitted, or not; the group stays until that is known."""

    def __init__(self, group_id: int, why: str) -> None:
        super().__init__(
            f"whether the job of group {group_id} was submitted is not known ({why}): the group stays pending until it "
            "is; watch it, or delete it"
        )
        self.group_id = group_id
