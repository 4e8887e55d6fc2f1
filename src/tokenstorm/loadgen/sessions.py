"""Sessions of one rank: which turn is due next. They begin as single requests would, and go on as they are answered."""

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

import msgspec
from msgspec.structs import replace

from tokenstorm.loadgen.conversations import Conversations, Script, Step, pauses
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.schedule import Arrivals, Schedule, schedule_of
from tokenstorm.plan import Plan
from tokenstorm.result import CENSORED, Phase, Result, SessionEnd, Turn

TEMPLATE_TOKENS = 32
"""What a chat template may add to a turn, for the guess whether the next one fits into the model's context."""


class Session:
    """One session that goes on: the conversation so far, as JSON, and the turn that comes next, None after the last."""

    def __init__(self, plan: Plan, number: int, at: int, script: Script) -> None:
        self.phase = _phase(plan, at)
        self.number = number
        self.turns = script.turns
        self.turn = 0
        self._live = plan.live_history
        self._steps = script.steps
        self._so_far = b""
        self._now: Step | None = None
        self.next: Step | None = next(self._steps)
        self.pause = pauses(plan, number)

    def say(self) -> Prompt:
        """Begin the next turn: its prompt is the whole conversation so far."""
        step = self._now = self.next
        assert step is not None, "a session ends after its last turn"
        self.turn += 1
        self._so_far = b"%b,%b" % (self._so_far, step.said) if self._so_far else step.said
        return Prompt(index=step.prompt, dialogue=msgspec.Raw(b"[%b]" % self._so_far), max_tokens=step.max_tokens)

    def hear(self, said: Sequence[str] | None) -> None:
        """The turn was answered: what is said from now on begins with that."""
        assert self._now is not None
        heard = self._now.answer
        if self._live:
            content = msgspec.json.encode("".join(said or ()).encode(errors="replace").decode())
            heard = b'{"role":"assistant","content":%b}' % content
        if heard:
            self._so_far = b"%b,%b" % (self._so_far, heard)
        self.next = next(self._steps, None)

    def fits(self, line: Result, context: int | None, max_tokens: int) -> bool:
        """Whether the next turn can be no longer than the model takes, as far as the answer's usage tells."""
        if context is None or self.next is None or line.prompt_tokens is None:
            return True
        so_far = line.prompt_tokens + (line.output_tokens or 0) + TEMPLATE_TOKENS
        return so_far + self.next.tokens + (self.next.max_tokens or max_tokens) <= context


class Sessions:
    """The turns of one rank's sessions, in the order in which they fall due; see `Schedule`.

    Sessions arrive as requests do where there are no conversations. Requests are numbered in the order in which they are sent.
    """

    follows_answers = True

    def __init__(
        self,
        plan: Plan,
        rank: int,
        ranks: int,
        conversations: Conversations,
        *,
        times: Sequence[int] | None = None,
        context: int | None = None,
    ) -> None:
        self._plan = plan
        self._ranks = ranks
        self._says = conversations
        self._context = context
        self._arrivals: Schedule = schedule_of(plan.arriving, rank, ranks, times)
        self._arrived: tuple[int, int] | None = None
        """The first session that has arrived and waits for a client."""
        self._coming: list[tuple[int, int, Session]] = []
        self._due: deque[tuple[int, Session]] = deque()
        self._in_flight: dict[int, Session] = {}
        self._seq = rank
        self._going_on = 0
        """How many sessions have a turn that was not sent."""
        self.next_at: int | None = None
        self.exhausted = False
        self._look_ahead()

    @property
    def waiting(self) -> int:
        return len(self._due) + self._arrivals.waiting + (self._arrived is not None)

    def fall_due(self) -> int:
        arriving = self._arrivals.next_at
        if self._coming and (arriving is None or self._coming[0][0] <= arriving):
            at, _, session = heappop(self._coming)
            self._due.append((at, session))
        else:
            at = self._arrivals.fall_due()
        self._look_ahead()
        return at

    def take(self) -> tuple[int, int]:
        if self._arrived is None and self._arrivals.waiting:
            self._arrived = self._arrivals.take()
        if self._due and (self._arrived is None or self._due[0][0] <= self._arrived[1]):
            at, session = self._due.popleft()
        else:
            assert self._arrived is not None, "something waits"
            (number, at), self._arrived = self._arrived, None
            session = Session(self._plan, number, at, self._says.script(number))
            self._going_on += 1
        seq = self._next_seq()
        self._in_flight[seq] = session
        self._says.ask(seq, session.say())
        if session.turn == session.turns:
            self._going_on -= 1
        self._look_ahead()
        return seq, at

    def rest(self, before: int | None) -> Iterator[Arrivals]:
        while (found := self._next_turn(before)) is not None:
            at, session = found
            turn = Turn(session.number, session.turn + 1, session.turns, session.phase)
            yield Arrivals(self._next_seq(), self._ranks, 1, at, at, turn)
        if self._arrived is not None and (before is None or self._arrived[1] < before):
            (number, at), self._arrived = self._arrived, None
            yield Arrivals(self._next_seq(), self._ranks, 1, at, at, self._first_turn(number, at))
        for arrivals in self._arrivals.rest(before):
            seq = self._next_seq(arrivals.size)
            yield arrivals._replace(seq=seq, stride=self._ranks, turn=self._first_turn(arrivals.seq, arrivals.first))

    def lane(self, seq: int) -> int:
        """A session stays with its replica, which has its conversation in the cache."""
        return self._in_flight[seq].number

    def ended(self, line: Result, said: Sequence[str] | None) -> Result:
        session = self._in_flight.pop(line.seq)
        end = self._go_on(session, line, said)
        if end is not None and line.done is not None:
            self._arrivals.answered(line.done, failed=end == "failed")
        self._look_ahead()
        turn = Turn(session.number, session.turn, session.turns, session.phase, end)
        return replace(line, conversation=turn)

    def answered(self, done: int, *, failed: bool) -> None:
        """Sessions end, and not requests: see `ended`."""

    def _go_on(self, session: Session, line: Result, said: Sequence[str] | None) -> SessionEnd | None:
        """Let the session's next turn come, unless the session ends."""
        is_last = session.turn == session.turns
        if line.error is not None:
            self._going_on -= not is_last
            return None if line.error.kind == CENSORED else "failed"
        if is_last:
            return "completed"
        session.hear(said)
        if not session.fits(line, self._context, self._plan.max_tokens):
            self._going_on -= 1
            return "too_long"
        at = (line.done or 0) + session.pause()
        end = self._plan.window_end_ns
        if end is None or at < end:
            heappush(self._coming, (at, session.number, session))
        return None

    def _next_seq(self, count: int = 1) -> int:
        seq = self._seq
        self._seq += self._ranks * count
        return seq

    def _next_turn(self, before: int | None) -> tuple[int, Session] | None:
        """Remove the next turn that falls due before a moment, whether it waits by now or not."""
        if self._due:
            return self._due.popleft() if before is None or self._due[0][0] < before else None
        if self._coming and (before is None or self._coming[0][0] < before):
            at, _, session = heappop(self._coming)
            return at, session
        return None

    def _first_turn(self, number: int, at: int) -> Turn:
        return Turn(number, 1, self._says.script(number).turns, _phase(self._plan, at))

    def _look_ahead(self) -> None:
        arriving = self._arrivals.next_at
        self.next_at = arriving
        if self._coming and (arriving is None or self._coming[0][0] < arriving):
            self.next_at = self._coming[0][0]
        self.exhausted = self._arrivals.exhausted and not self._going_on


def _phase(plan: Plan, at: int) -> Phase:
    """The phase of a session whose first turn is due at `at`."""
    return "measured" if at >= plan.window_start_ns else "warmup"
