"""What a run says about the targets of the page cipher, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from tde_bench.measure.libraries import release_of
from tde_bench.measure.statistics import MINIMUM_VALUES, Estimate
from tde_bench.pages.results import LIMITS, OPENSSL, TDE, PagesCase, PagesResult, PagesSummary
from tde_bench.present.formats import format_interval, spread_name

# Batches of 1 to 16 MiB are to reach this part of the fastest libcrypto on one core.
SMALLEST_BATCH, LARGEST_BATCH = 128, 2048
TARGET = 0.95
_MEBIBYTE_PAGES = 128


def verdicts(result: PagesResult, summaries: Sequence[PagesSummary]) -> list[str]:
    """Say whether targets are met, how near the product comes to its library, how it scales."""
    lines = _of_fastest(result, summaries)
    names = [name for name in result.labels if name not in (*LIMITS, TDE)]
    lines += [line for name in names if (line := _ahead_of(result, name))]
    lines += _of_own_library(result, summaries)
    rounds = max(summary.rounds for summary in summaries)
    if rounds < MINIMUM_VALUES:
        lines.append(f"From {rounds} rounds: {MINIMUM_VALUES} are needed for a conclusion.")
    return lines


def _of_own_library(result: PagesResult, summaries: Sequence[PagesSummary]) -> list[str]:
    """Say it of the library that tde uses, with large batches; the table has the rest."""
    lines = []
    own = [s for s in summaries if (s.backend, s.library) == (TDE, result.used_library)]
    for summary in own:
        if summary.pages < SMALLEST_BATCH:
            continue
        case = f"{summary.algorithm} {summary.direction}, {summary.pages} pages, {summary.place}"
        if summary.threads == 1 and summary.fraction is not None:
            limit = result.label_of(OPENSSL, summary.library)
            lines.append(
                f"{case}: {summary.fraction.median:.3f} of {limit} on one core "
                f"({_spread(summary.fraction)})."
            )
        if summary.threads > 1 and summary.scaling is not None:
            lines.append(
                f"{case}: {summary.scaling.median:.2f} times as fast with {summary.threads} "
                f"threads ({_spread(summary.scaling)})."
            )
    return lines


def _of_fastest(result: PagesResult, summaries: Sequence[PagesSummary]) -> list[str]:
    """Answer the target for each algorithm and direction, in place and on one core."""
    found: dict[tuple[str, str], list[tuple[PagesSummary, Estimate]]] = {}
    for summary in summaries:
        if (
            summary.of_fastest is not None
            and summary.library == result.used_library
            and SMALLEST_BATCH <= summary.pages <= LARGEST_BATCH
            and (summary.place, summary.threads) == ("in place", 1)
        ):
            key = (summary.algorithm, summary.direction)
            found.setdefault(key, []).append((summary, summary.of_fastest))
    lines = []
    fastest = "the fastest libcrypto" if len(result.libraries) > 1 else "the one libcrypto measured"
    for (algorithm, direction), known in found.items():
        sizes = sorted(summary.pages // _MEBIBYTE_PAGES for summary, _ in known)
        library = result.fastest_library(algorithm, direction) or ""
        worst, least = min(known, key=lambda pair: pair[1].median)
        span = f"{sizes[0]} MiB" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} MiB"
        lines.append(
            f"Target, {algorithm} {direction}, {span} in place on one core: at least "
            f"{TARGET} of {fastest}, {release_of(result.libraries.get(library, ''))}, on as many "
            f"pages: "
            f"{_answer([estimate for _, estimate in known])}. The least is {least.median:.3f} "
            f"({_spread(least)}), with {worst.pages} pages."
        )
    if not found and any(summary.fraction is not None for summary in summaries):
        limits = {summary.library for summary in summaries if summary.backend == OPENSSL}
        missing = [text for name, text in result.libraries.items() if name not in limits]
        if missing:
            lines.append(f"Target: not answered, the limit of {missing[0]} is not known.")
    return lines


def _answer(estimates: Sequence[Estimate]) -> str:
    """Return whether all reach the target: undecided where an interval holds it."""
    if any(e.is_conclusive and e.high is not None and e.high < TARGET for e in estimates):
        return "missed"
    if all(e.is_conclusive and e.low is not None and e.low >= TARGET for e in estimates):
        return "met"
    return "undecided"


def _ahead_of(result: PagesResult, backend: str) -> str | None:
    """Say how the product compares with another backend in all cases; None without any."""
    known = result.ahead_of(backend)
    if not known:
        return None
    label = result.labels[backend]
    case, least = min(known, key=lambda pair: pair[1].median)
    behind = [estimate for _, estimate in known if estimate.low is None or estimate.low <= 1]
    smallest = min(case.pages for case, _ in known)
    where = f"{len(known)} cases from {_pages(smallest)} per call up"
    verdict = (
        f"Not ahead of {label} in {len(behind)} of {where}"
        if behind
        else f"Ahead of {label} in all {where}"
    )
    return (
        f"{verdict}: {least.median:.2f} times as fast at the least ({_spread(least)}), "
        f"{_words(case)}."
    )


def _words(case: PagesCase) -> str:
    return f"{case.algorithm} {case.direction}, {_pages(case.pages)}, {case.place}"


def _pages(count: int) -> str:
    return "1 page" if count == 1 else f"{count} pages"


def _spread(estimate: Estimate) -> str:
    return f"{spread_name([estimate])} {format_interval(estimate)}"
