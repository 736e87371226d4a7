"""Pieces of HTML: text that is escaped unless it is known to be HTML, tables, and the style of a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from planner.report.palette import fills, variables

ROWS_SHOWN = 200


class Html(str):
    """Text that is HTML already; everything else is escaped where it is put into a page."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    number: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a table under a heading of their own."""

    heading: str
    rows: Sequence[Sequence[str]]


def html(text: str) -> Html:
    return text if isinstance(text, Html) else Html(escape(text))


def element(name: str, content: str, css: str = "") -> Html:
    attribute = f' class="{css}"' if css else ""
    return Html(f"<{name}{attribute}>{html(content)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    return Html("".join(map(html, parts)))


def section(title: str, *content: str) -> Html:
    return element("section", joined([element("h2", title), *content]))


def bullets(items: Sequence[str], shown: int, more: str) -> Html:
    """A list of at most `shown` items; `more` says where the others are."""
    rows = [element("li", item) for item in items[:shown]]
    hidden = len(items) - shown
    if hidden > 0:
        rows.append(element("li", f"… and {hidden:,} more {more}", "more"))
    return element("ul", joined(rows))


def table(label: str, columns: Sequence[Column], groups: Sequence[Group], more: str = "") -> Html:
    """At most ROWS_SHOWN rows; `more` says what the others are and where."""
    cells = (Html(f'<th scope="col"{_css(column)}>{html(column.name)}</th>') for column in columns)
    parts = [element("thead", element("tr", joined(cells)))]
    left = ROWS_SHOWN
    for group in groups:
        if left > 0:
            parts.append(_body(group, group.rows[:left], columns))
        left -= len(group.rows)
    remark = [element("p", f"… and {-left:,} more {more}", "more")] if left < 0 else []
    return joined([scrolled(label, element("table", joined(parts))), *remark])


def scrolled(label: str, content: Html) -> Html:
    """On a narrow screen the content moves sideways, by keyboard too, and the page does not."""
    return Html(f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>')


def _body(group: Group, rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> Html:
    lines = []
    if group.heading:
        heading = f'<th class="group" scope="rowgroup" colspan="{len(columns)}">{html(group.heading)}</th>'
        lines.append(element("tr", Html(heading)))
    for row in rows:
        cells = (Html(f"<td{_css(column)}>{html(cell)}</td>") for cell, column in zip(row, columns, strict=True))
        lines.append(element("tr", joined(cells)))
    return element("tbody", joined(lines))


def _css(column: Column) -> str:
    return ' class="number"' if column.number else ""


def number(value: float | None) -> str:
    """Three digits, or all of the whole part."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def document(title: str, extra_style: str, content: Html) -> str:
    """A whole page that loads nothing from anywhere; what a plan names can never become a script in it."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{variables(':root')}{STYLE}{fills()}{extra_style}</style></head>\n"
        f"<body><main>{content}</main></body></html>\n"
    )


STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}
main{max-width:1060px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;line-height:1.2;margin:0 0 8px}
h2{font-size:17px;margin:36px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h1,h2,p,li{overflow-wrap:anywhere}
p{margin:6px 0;max-width:76ch}
ul{margin:6px 0;padding-left:20px;max-width:90ch}
.answer{font-size:18px}
.small,.more,footer{color:var(--ink2);font-size:13px}
.badge{display:inline-block;border:1px solid currentColor;border-radius:99px;padding:0 9px;font-size:13px;
font-weight:600;vertical-align:2px}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.alarm{border:2px solid var(--bad);border-radius:8px;padding:10px 16px;margin:16px 0}
.alarm h2{border:0;margin:0;padding:0;color:var(--bad)}
.scroll{overflow-x:auto;margin:8px 0}
.scroll:focus-visible{outline:2px solid var(--hue0);outline-offset:2px}
.fleet-map{min-width:760px}.fleet-map svg{display:block;width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:13px;line-height:1.35}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:2px}
td:not(:first-child){white-space:nowrap}
td:first-child{overflow-wrap:anywhere;min-width:140px}
.number+:not(.number){padding-left:14px}
thead th{color:var(--ink3);font-weight:500;vertical-align:bottom}
th.group{padding-top:14px;font-weight:600}
th.group small{font-weight:400;color:var(--ink2);font-size:13px;margin-left:8px}
.swatch{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:7px}
td.number small,td small{color:var(--ink2);font-size:12px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--track);border-radius:6px;padding:10px;font-size:12px}
svg.strip{vertical-align:middle}
svg.strip .track{fill:var(--track)}svg.strip .bound{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:3 2}
svg.strip .span{fill:var(--once)}svg.strip .measured{fill:var(--ink)}
svg.strip .predicted{stroke:var(--hue0);stroke-width:2}
footer{margin-top:40px;padding-top:12px;border-top:1px solid var(--line);overflow-wrap:anywhere}
@media (max-width:600px){main{padding:18px 14px 32px}.answer{font-size:16px}}
@media print{@page{margin:13mm}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
:root{--paper:#fff}body{font-size:10pt}main{max-width:none;padding:0}
table{font-size:8.5pt}th,td{padding-right:8px}
.scroll{overflow:visible}.fleet-map{min-width:0}
h2,th.group{break-after:avoid}tr,li,.alarm{break-inside:avoid}}
"""
