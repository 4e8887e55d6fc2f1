"""temporary"""

import msgspec


class Prompt(msgspec.Struct, frozen=True):
    index: int | None = None
    text: str | None = None
    messages: list | None = None
    tokens: list | None = None
    max_tokens: int | None = None


class PromptSource:
    cacheable = True

    def __init__(self, p):
        self.p = p

    def index_of(self, seq):
        return seq % len(self.p)

    def get(self, seq):
        return Prompt(index=seq % len(self.p), text=self.p[seq % len(self.p)])


def load_prompts(plan):
    return PromptSource(plan.prompts.prompts)


def prompt_file(p):
    raise NotImplementedError
