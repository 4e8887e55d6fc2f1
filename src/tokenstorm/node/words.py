"""What a program said last, to explain why it ended: its error, or its last line that is no progress bar."""

import re

LONGEST = 500
"""The longest explanation, in characters."""
_ERROR_AMONG = 40
"""So many lines from the end an exception is looked for: what a program says on its way out comes after it."""
_COMPLAINT_AMONG = 10
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|\x9b[0-?]*[ -/]*[@-~]")
_PROGRESS = re.compile(
    r"\d+%\||\d+%.*\|.*\d/\S+ ?\["  # tqdm: 25%|███   | 1/4 [
    r"|\d+(?:\.\d+)?[kKMGT]?i?B?/(?:\d+(?:\.\d+)?[kKMGT]?i?B?|\?) ?\S{0,4} ?\[\d+:\d+"  # 1/4 [00:01<00:03, 1.2s/it]
    r"|\d+it \[\d+:\d+"
    r"|[━█▏▎▍▌▋▊▉╸╺]{3}|[=#.-]{10,}>?\s*\]"  # bars
    r"|▕.*▏|^\s*[⠀-⣿]"
    r"|--:--:--|(?:\.{5,} +){2}|^ *\d+ +\S+ +\d+ +\S+ +\d+ .*\d:\d\d:\d\d"  # curl, wget
    r"|^\s*\d+(?:\.\d+)?\s?%\s*$"
)
_EXCEPTION = re.compile(r"(?<![\w.])(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure)(?:: .+|$|:$)")
_COMPLAINT = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL|PANIC)\b|\b(?:error|fatal|panic)(?:\[\w+\])?:|panicked at|[Ss]eg(?:mentation )?fault|"
    r"[Oo]ut of memory|[Nn]o such file|not found|[Pp]ermission denied|No space left|core dumped"
)
_POINTS_BACK = re.compile("root cause above|[Ss]ee (?:the )?(?:error|log|stack ?trace|traceback)s? above")
_WORD = re.compile(r"[^\W_]{2}|\d")


def last_words(text: str) -> str:
    """An exception near the end, else a complaint, else the last line; on one line, of at most `LONGEST` characters."""
    lines = _spoken(text)
    if told := _cause(lines):
        return _short(told)
    for pattern, among in ((_EXCEPTION, _ERROR_AMONG), (_COMPLAINT, _COMPLAINT_AMONG)):
        for back, line in enumerate(reversed(lines[-among:])):
            if found := pattern.search(line):
                told = line[found.start() :] if pattern is _EXCEPTION else line
                return _short(" ".join([told.strip(), *_continued(told, lines[len(lines) - back :])]))
    return _short(lines[-1].strip()) if lines else ""


def _cause(lines: list[str]) -> str:
    """The exception that the last one points back to."""
    found = [match[0] for line in lines if (match := _EXCEPTION.search(line))]
    if not any(_POINTS_BACK.search(line) for line in lines[-_ERROR_AMONG:]):
        return ""
    return next((told for told in reversed(found) if not _POINTS_BACK.search(told)), "")


def _spoken(text: str) -> list[str]:
    """The lines as a terminal would have shown them in the end, without what only shows that something goes on."""
    shown = (_ESCAPES.sub("", line).rstrip().replace("\b", "\r").rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in shown if _WORD.search(line) and not _PROGRESS.search(line)]


def _continued(line: str, following: list[str]) -> list[str]:
    """The lines that belong to the one before them: those that are indented, and the first behind a colon."""
    found: list[str] = []
    for one in following:
        if not one.startswith((" ", "\t")) and (found or not line.endswith(":")):
            break
        found.append(one.strip())
    return found


def _short(text: str) -> str:
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
