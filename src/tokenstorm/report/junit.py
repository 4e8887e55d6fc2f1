"""Checks of a run as JUnit XML, which CI systems show: the verdict, and each bound that it was to keep."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from tokenstorm.metrics.summary import Summary
from tokenstorm.printable import printable_line
from tokenstorm.report.asked import percent
from tokenstorm.report.comparing import Comparison
from tokenstorm.report.conditions import crossed_bounds


class Check(NamedTuple):
    """One check, and why it failed; empty where it did not."""

    name: str
    failure: str


def run_junit(summary: Summary, fail_on: Sequence[str]) -> str:
    """A run: its verdict, which fails where the numbers cannot be trusted, its objectives, and each bound."""
    reasons = "; ".join(reason.text for reason in summary.verdict.reasons)
    checks = [Check("verdict", reasons if summary.verdict.state == "invalid" else "")]
    if (good := summary.goodput) and summary.plan.slo:
        share = (
            "nothing was scheduled"
            if good.ratio is None
            else f"{percent(good.ratio)} of all scheduled requests are good"
        )
        checks.append(
            Check("objectives", "" if good.met else f"{share}, and {percent(summary.plan.slo.share)} were asked")
        )
    checks += [Check(text, "; ".join(crossed_bounds(summary, [text]))) for text in fail_on]
    return junit(f"run {summary.run_id}", checks)


def comparison_junit(found: Comparison, fail_if: Sequence[str]) -> str:
    """A comparison: each change that it was to fail on, for each side."""
    checks = [
        Check(f"{one.name}: {text}", "; ".join(words for words in one.regressions if words.startswith(text)))
        for one in found.versus
        for text in fail_if
    ]
    return junit(f"against {found.first}", checks)


def junit(suite: str, checks: Sequence[Check]) -> str:
    """One suite with a test for each check."""
    failed = sum(bool(check.failure) for check in checks)
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<testsuites><testsuite name={_quoted(suite)} tests="{len(checks)}" failures="{failed}">',
            *map(_case, checks),
            "</testsuite></testsuites>",
            "",
        ]
    )


def _case(check: Check) -> str:
    begin = f'<testcase classname="tokenstorm" name={_quoted(check.name)}'
    return f"{begin}><failure message={_quoted(check.failure)}/></testcase>" if check.failure else f"{begin}/>"


def _quoted(text: str) -> str:
    return quoteattr(printable_line(text))
