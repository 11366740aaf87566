"""How the page looks: one style sheet for light and dark, phone and desktop."""

#: Colours by kind of what is drawn, in light and dark; pages and picture files share them.
COLOURS = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f5f7f9; --ink: #1c242c; --quiet: #5a6672;
  --rule: #dfe4e9; --accent: #2563ab; --good: #0f7a55; --bad: #b3402e; --kept: #2563ab; --dense: #98a4b1;
  --gone: #dde3e9; --stays: #c27a12; --plain: #d9822b; --reorder: #8250a8; --note: #fdf4e1; --note-edge: #d9a33a; }
@media (prefers-color-scheme: dark) {
:root { --ground: #12161b; --panel: #1b2128; --ink: #e7ebef; --quiet: #9daab7; --rule: #2f3842; --accent: #78b0f0;
  --good: #4fc596; --bad: #f0877a; --kept: #5b9ce8; --dense: #7b8896; --gone: #343e49; --stays: #d99a3d;
  --plain: #e0954a; --reorder: #b48ad8; --note: #2b2415; --note-edge: #a37a2a; } }
.kept, .fast { fill: var(--kept); background: var(--kept); }
.dense { fill: var(--dense); background: var(--dense); }
.gone { fill: var(--gone); background: var(--gone); }
.stays { fill: var(--stays); background: var(--stays); }
.plain { fill: var(--plain); background: var(--plain); }
.reorder { fill: var(--reorder); background: var(--reorder); }
svg text { fill: var(--quiet); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
svg text.label { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis { stroke: var(--quiet); stroke-width: 1; }
svg .mark { stroke: var(--stays); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; background: none; }
svg polyline.kept { stroke: var(--kept); fill: none; }
svg polyline.dense { stroke: var(--quiet); fill: none; }
"""

PAGE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1.1rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--rule); }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.subtitle { color: var(--quiet); font-size: 1.08rem; margin: .35rem 0 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.2rem 0 0; font-size: .92rem; }
a { color: var(--accent); text-underline-offset: .15em; }
code { font: .88em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
p code, li code { background: var(--panel); padding: .08em .3em; border-radius: 4px; }
.missing { background: var(--note); border-left: 4px solid var(--note-edge); padding: .55rem .8rem;
  border-radius: 0 6px 6px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 0; }
.tile { background: var(--panel); border-radius: 10px; padding: .8rem 1rem; display: flex; flex-direction: column; }
.tile dt { color: var(--quiet); font-size: .88rem; overflow-wrap: anywhere; }
.tile dd { margin: 0; }
.tile .value { font-size: 1.8rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile .good { color: var(--good); }
.tile .bad { color: var(--bad); }
.tile .detail { font-size: .86rem; color: var(--quiet); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem 1.1rem .32rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: top; }
th { color: var(--quiet); font-weight: 550; vertical-align: bottom; }
th.left, td.left { text-align: left; }
td.long { white-space: normal; min-width: 15rem; max-width: 34rem; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; margin: .6rem 0; }
.bars { margin: .8rem 0; font-size: .92rem; display: grid; gap: .2rem .9rem; align-items: center;
  grid-template-columns: fit-content(20rem) minmax(8rem, 1fr) fit-content(19rem); }
.row { display: contents; }
.row .name { overflow-wrap: anywhere; line-height: 1.3; }
.row .note { color: var(--quiet); font-variant-numeric: tabular-nums; line-height: 1.3; }
.row svg { width: 100%; height: .95rem; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 0 0 .5rem; color: var(--quiet);
  font-size: .92rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem;
  margin: .6rem 0 1rem; }
.charts.one { display: block; }
figure { margin: 0; max-width: 34rem; }
figcaption { font-weight: 550; font-size: .92rem; overflow-wrap: anywhere; }
figure svg { width: 100%; height: auto; display: block; }
details { margin: .3rem 0; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; }
@media (max-width: 40rem) {
  main { padding: 1rem .9rem 3rem; }
  h1 { font-size: 1.45rem; }
  .bars { display: block; }
  .row { display: grid; grid-template-columns: fit-content(55%) 1fr; gap: 0 .9rem; padding: .3rem 0; }
  .row svg { grid-column: 1 / -1; grid-row: 2; }
  .row .note { text-align: right; }
  .tiles { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .tile .value { font-size: 1.45rem; }
}
@media print { details > * { display: block; } nav { display: none; } }
"""
