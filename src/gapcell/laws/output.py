"""Reports as files: JSON for programs, and one HTML page that stands alone."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from gapcell import __version__
from gapcell.files import replacing
from gapcell.info import packages
from gapcell.laws.checking import Report, Summary
from gapcell.laws.suite import NAMES

__all__ = ["FORMAT", "matrix", "to_html", "to_json", "versions", "write"]

FORMAT = 1

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .7rem; text-align: left; vertical-align: top; }
td.law { text-align: right; }
.holds { color: #1a7f37; } .broken { color: #cf222e; font-weight: 600; } .not { opacity: .65; }
td.why { overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) { .holds { color: #3fb950; } .broken { color: #ff7b72; } }
"""


def matrix(reports: Sequence[Report]) -> list[tuple[int, str, list[Summary | None]]]:
    """By law: its number, its name, and each report's summary, None where it was not asked for."""
    found = [{summary.law: summary for summary in report.laws()} for report in reports]
    laws = sorted({law for summaries in found for law in summaries})
    return [(law, NAMES[law], [summaries.get(law) for summaries in found]) for law in laws]


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    here = {package.name: package.version for package in packages()}
    return {name: version for name, version in here.items() if version is not None}


def write(reports: Sequence[Report], *, html: Path | None, json: Path | None) -> None:
    """Writes what is asked for, each file whole.

    Raises:
        OSError: a file cannot be written.
    """
    for path, render in ((html, to_html), (json, to_json)):
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(render(reports, versions()), encoding="utf-8")


def to_json(reports: Sequence[Report], versions: Mapping[str, str]) -> str:
    """The reports with all their rows.

    Args:
        reports: one a system.
        versions: of the packages that were there.
    """
    content = {
        "format": FORMAT,
        "gapcell": __version__,
        "versions": dict(versions),
        "systems": [report.to_dict() for report in reports],
    }
    return json_format.dumps(content, indent=1, ensure_ascii=False) + "\n"


def to_html(reports: Sequence[Report], versions: Mapping[str, str]) -> str:
    """One page without anything to fetch; arguments as of `to_json`."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    title = "Laws of masked layers: " + ", ".join(report.system for report in reports)
    body = [f"<h1>{escape(title)}</h1>", f"<p>gapcell {escape(__version__)}; {escape(packages)}</p>"]
    if len(reports) > 1:
        body += _matrix(reports)
    for report in reports:
        body += _section(report)
    head = f'<meta charset="utf-8"/><title>{escape(title)}</title><style>{STYLE}</style>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _matrix(reports: Sequence[Report]) -> Iterator[str]:
    names = "".join(f"<th>{escape(report.system)}</th>" for report in reports)
    yield f"<div><table><tr><th>law</th><th></th>{names}</tr>"
    for law, says, summaries in matrix(reports):
        cells = "".join("<td></td>" if summary is None else _verdict(summary) for summary in summaries)
        yield f'<tr><td class="law">{law}</td><td>{escape(says)}</td>{cells}</tr>'
    yield "</table></div>"


def _section(report: Report) -> Iterator[str]:
    rank = "all ranks" if report.rank is None else f"rank {report.rank}"
    yield f"<h2>{escape(report.system)}</h2><p>{rank}, {escape(report.dtype)}</p><div><table>"
    yield "<tr><th>law</th><th></th><th>verdict</th><th>holds in</th><th>broken in</th><th>why</th></tr>"
    for summary in report.laws():
        counts = f"<td>{summary.held or ''}</td><td>{summary.broken or ''}</td>"
        yield (
            f'<tr><td class="law">{summary.law}</td><td>{escape(summary.says)}</td>{_verdict(summary)}{counts}'
            f'<td class="why">{escape(summary.why)}</td></tr>'
        )
    yield "</table></div>"


def _verdict(summary: Summary) -> str:
    kind = summary.verdict if summary.held or summary.broken else "not"
    return f'<td class="{kind}">{summary.verdict}</td>'
