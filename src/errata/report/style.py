"""The page's style sheet: light, dark and paper; from a phone's width to a desk's.

The methods' colours keep apart for people who see red and green alike; on dark ground they are lighter versions of the
same hues. Shape and position carry the same information, so the page also works printed in grey.
"""

from __future__ import annotations

_COLOURS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #16191d; --soft: #565e68; --rule: #d9dee4; --grid: #eaedf0;
  --wash: #f4f6f8; --good: #bfdcf0; --bad: #f5bd94; --badink: #8a3300; --badwash: #fdf0e7; --idle: #dde1e6;
  --c0: #0059c9; --c1: #cc6300; --c2: #00543a; --c3: #a0207c;
  --c4: #684a00; --c5: #0093a0; --c6: #3c22a8; --c7: #73767c }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #eceff2; --soft: #a9b2bc;
  --rule: #363d45; --grid: #262b31; --wash: #1c2025; --good: #1f5379; --bad: #7d3d16;
  --badink: #ffb98c; --badwash: #2a2019;
  --idle: #343b43; --c0: #5790e0; --c1: #d0883f; --c2: #5be8a8; --c3: #e65f96;
  --c4: #ffd763; --c5: #66c4f5; --c6: #9a72ff; --c7: #dde2e5 } }
"""
_SLOTS = "".join(f".m{n} {{ --c: var(--c{n}) }}\n" for n in range(8))
_TEXT = """
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100% }
header, main { max-width: 1200px; margin: 0 auto; padding: 0 28px }
header { padding-top: 36px }
.over { margin: 0 0 10px; color: var(--soft) }
.over b { color: var(--ink); margin-right: .6em }
h1, h2 { font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif;
  font-weight: 600; text-wrap: balance; margin: 0 }
h1 { font-size: clamp(27px, 3.4vw, 40px); line-height: 1.17; letter-spacing: -.01em; max-width: 28em }
h2 { font-size: 27px; line-height: 1.2; padding-top: 20px; border-top: 2px solid var(--ink); margin-bottom: 18px }
h2 small { font-family: system-ui, sans-serif; font-size: 15px }
h3 { font-size: 18px; line-height: 1.3; margin: 46px 0 6px }
h4 { font-size: 15px; margin: 28px 0 8px }
article h4 { margin-top: 0 }
small { color: var(--soft); font-weight: 400; font-size: 13px }
.deck { font-size: 17px; color: var(--soft); max-width: 48em; margin: 14px 0 0; text-wrap: pretty }
.fine { color: var(--soft); font-size: 13.5px; margin: 4px 0 14px; max-width: 64em }
section { margin: 34px 0 72px }
.method { white-space: nowrap; font-weight: 600 }
.swatch { width: 13px; height: 13px; vertical-align: -1.5px; overflow: visible }
table { border-collapse: collapse }
code, pre { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace }
"""
_STRIP = """
.strip { width: 100%; table-layout: fixed }
.strip caption { text-align: left; color: var(--soft); padding-bottom: 8px }
.strip caption b { color: var(--ink) }
.strip thead th { font-weight: 400; color: var(--soft); font-size: 13px; padding: 0 3px 4px; text-align: center }
.strip thead th:first-child, .strip thead th:last-child { visibility: hidden }
.strip th[scope=row] { text-align: left; padding: 4px 10px 4px 0; overflow-wrap: anywhere }
.strip th[scope=row] .method { white-space: normal }
.strip col { width: auto }
.strip th:first-child { width: 15% }
.strip th:last-child { width: 27% }
.strip td { position: relative; height: 52px; padding: 0; border: 3px solid var(--paper); border-width: 3px 2px;
  background: var(--wash); background-clip: padding-box; text-align: center }
.strip i { position: absolute; inset: auto 0 0 0; background: var(--good) }
.strip .bad { background-color: var(--badwash) }
.strip .bad i { background: var(--bad) }
.strip .idle i { background: var(--idle) }
.strip td span { position: relative; font-weight: 600 }
.strip .bad span { color: var(--badink) }
.strip .idle span, .strip .gone span { color: var(--soft); font-weight: 400 }
.strip .gone { background: repeating-linear-gradient(135deg, var(--grid) 0 1px, transparent 1px 6px);
  background-clip: padding-box; font-size: 12px }
.strip td.v { background: none; text-align: left; padding-left: 12px; line-height: 1.25; height: auto }
.strip td.v small { display: block }
.strip .broke b, .strip .never b { color: var(--badink) }
"""
_LIGHTS = """
.lights th, .lights td { text-align: center; padding: 4px 7px; font-size: 13px; border-top: 1px solid var(--grid) }
.lights thead th { font-weight: 400; color: var(--soft); border: 0; vertical-align: bottom; line-height: 1.25; min-width: 58px;
  hyphens: manual }
.lights th[scope=row] { text-align: left; padding-left: 0; white-space: nowrap; font-size: 15px }
.lights td svg { display: block; width: 22px; height: 22px; margin: 2px auto; fill: var(--good); stroke: none }
.lights .rim { fill: none; stroke: var(--ink); stroke-width: 1.5 }
.lights .unsure { stroke-dasharray: 2 2 }
.lights .half { fill: var(--idle) }
.lights .hollow .rim { fill: var(--badwash); stroke: var(--badink) }
.lights td small { display: block; font-size: 11.5px; line-height: 1.1 }
"""
_PLOTS = """
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 26px 30px }
figure { margin: 0; break-inside: avoid; display: grid; grid-template-rows: subgrid; grid-row: span 2; gap: 0;
  align-content: start }
figcaption { line-height: 1.35; margin-bottom: 4px; align-self: end }
figcaption span { color: var(--soft); font-size: 13px; white-space: pre-wrap }
.plot { display: block; width: 100%; height: auto; max-width: 520px; overflow: visible }
.plot text { font-size: 11.5px; fill: var(--ink) }
.plot .tick { fill: var(--soft); font-size: 11px }
.plot .name { fill: var(--c, var(--ink)); 
  fill: color-mix(in srgb, var(--c, var(--ink)) 80%, var(--ink)); font-weight: 600; font-size: 12px }
.plot .note { font-size: 11.5px }
.plot .haloed { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round }
.grid line.grid, line.grid { stroke: var(--grid) }
.axis { stroke: var(--soft) }
.base { stroke: var(--soft); stroke-dasharray: 1 3; stroke-linecap: round; stroke-width: 1.4 }
.dimension { stroke: var(--soft); stroke-dasharray: 5 3; stroke-width: .8 }
.lead { stroke: var(--c); stroke-width: .8 }
.curve { fill: none; stroke: var(--c); stroke-width: 2.1; stroke-linejoin: round }
.again .curve { stroke-dasharray: 6 3 }
.thin { stroke-width: 1.2; stroke-dasharray: 4 2 }
.band { fill: var(--c); opacity: .11 }
.many .band { opacity: .07 }
.between { fill: var(--c); opacity: .2 }
.mark { fill: var(--c); stroke: var(--c) }
.mark.hollow { fill: var(--paper); stroke-width: 1.6 }
.cross { stroke: var(--c); stroke-width: 2.4; fill: none }
.whisker { stroke: var(--c); stroke-width: 2 }
.dumbbell { stroke: var(--c); stroke-width: 3; opacity: .45 }
.bar { fill: var(--c) }
"""
_TABLES = """
.scroll { overflow-x: auto }
.numbers { font-size: 14px; min-width: 100%; border-collapse: separate; border-spacing: 0;
  line-height: 20px }
.wide .pm { display: block }
.numbers th, .numbers td { padding: 5px 14px 5px 0; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--grid) }
.numbers thead th { color: var(--soft); font-weight: 400; border-bottom: 1px solid var(--soft) }
.numbers thead .method { color: var(--ink) }
.numbers th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0; background: var(--paper);
  z-index: 1 }
.numbers th small { display: block; font-size: 12px; line-height: 16px; white-space: normal; max-width: 24em }
.numbers .section th { font-weight: 600; padding-top: 18px }
.numbers .section > * { border-bottom-color: var(--rule) }
.numbers:not(.wide) td { min-width: 7.6em }
.numbers .n { min-width: 0 }
.numbers th:last-child, .numbers .n { padding-right: 0 }
.numbers:not(.pairs) td:nth-child(2), .numbers .n, .pm, .arrow { color: var(--soft) }
.pm { font-size: 12.5px }
details { margin-top: 10px }
summary { cursor: pointer; font-weight: 600; padding: 4px 0 }
.cases, .runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 30px 44px }
article { break-inside: avoid; min-width: 0 }
.cases ol { list-style: none; margin: 0; padding: 0 }
.cases li { border-top: 1px solid var(--rule); padding: 8px 0 9px }
.cases p { margin: 0 0 3px; overflow-wrap: anywhere }
.cases dl { display: grid; grid-template-columns: 4.2em 1fr; margin: 0; font-size: 14px }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
.cases .said { color: var(--badink) }
q { quotes: "“" "”" }
.runs pre { background: var(--wash); padding: 10px 12px; margin: 0 0 10px; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: 3px }
.runs dd code { margin-right: .7em }
.runs dl { margin: 0; font-size: 13.5px }
.runs dl div { display: grid; grid-template-columns: 7.5em 1fr; padding: 2px 0 }
"""
_SIZES = """
@media (max-width: 700px) {
  header, main { padding: 0 18px }
  header { padding-top: 22px }
  .strip, .strip caption, .strip thead, .strip tbody { display: block }
  .strip tr { display: grid; grid-template-columns: repeat(var(--k), 1fr); align-items: end; margin-bottom: 14px }
  .strip thead tr { margin-bottom: 4px }
  .strip thead th:first-child, .strip thead th:last-child { display: none }
  .strip thead th { width: auto !important; font-size: 12px; padding: 0 }
  .strip th[scope=row] { width: auto; grid-column: 1 / -1; padding-bottom: 0; grid-row: 1 }
  .strip td.v { grid-column: 1 / -1; grid-row: 2; padding: 0 0 3px; border: 0 }
  .strip td { display: grid; place-items: center; height: 42px; font-size: 12.5px; grid-row: 3;
    white-space: nowrap }
  .strip td.v { display: block; place-items: normal; font-size: 14px; white-space: normal }
  .strip td.v small { display: inline; margin-left: .4em }
  .strip small + small::before { content: "· " }
  .numbers { font-size: 13px }
  .numbers:not(.wide) td { min-width: 0 }
  .numbers th, .numbers td { padding-right: 12px }
  .numbers th:first-child { max-width: 8.5em; white-space: normal }
  .numbers th small { display: none }
  .pm { display: block }
}
@media print {
  body { font-size: 10.5pt }
  header, main { max-width: none; padding: 0 }
  .grid { grid-template-columns: repeat(2, 1fr) }
  .scroll { overflow: visible }
  .numbers { font-size: 8.5pt }
  .numbers th, .numbers td { padding-right: 8px }
  .numbers th:first-child { position: static }
  .numbers th small { display: none }
  .cases, .runs { grid-template-columns: 1fr 1fr }
  .strip tr, .numbers tr, li { break-inside: avoid }
  h2, h3, h4 { break-after: avoid }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact }
}
"""

STYLE = _COLOURS + _SLOTS + _TEXT + _STRIP + _LIGHTS + _PLOTS + _TABLES + _SIZES
