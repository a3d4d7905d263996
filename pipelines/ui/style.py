"""The colours and layout of the pages as CSS. Text has a contrast of 4.5:1 at least in both themes. No state is a colour alone."""

from __future__ import annotations

CSS = """
:root { --ink: #1a1d21; --soft: #565d66; --line: #d5d9de; --ground: #f6f7f9; --card: #ffffff; --link: #0b57b0;
        --critical: #b3171f; --warning: #8a5300; --good: #1a6b35; --curve: #1f6fc4; --focus: #0b57b0; }
body { --q-primary: #0b57b0 !important; }
body.body--dark { --ink: #e8eaed; --soft: #a9b0b9; --line: #3a4048; --ground: #14171a; --card: #1d2125; --link: #86b9ff;
        --critical: #ff8a85; --warning: #f2b85c; --good: #7fd69a; --curve: #6aaef5; --focus: #86b9ff;
        --q-primary: #86b9ff !important; }
@layer theme { body.body--dark .q-btn.bg-primary { color: #10233d !important; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
a { color: var(--link); } :focus-visible { outline: 3px solid var(--focus) !important; outline-offset: 2px; }
.nicegui-content { display: block !important; padding: 0 !important; max-width: 100%; }
header.bar { display: flex; flex-wrap: wrap !important; color: var(--ink) !important; min-height: 0;
        align-items: center; gap: .2rem .9rem; padding: .5rem 1rem; background: var(--card) !important;
        border-bottom: 1px solid var(--line); }
header.bar nav { display: flex; gap: .2rem; overflow-x: auto; flex: 1 1 auto; }
header.bar nav a { padding: .45rem .6rem; text-decoration: none; border-radius: .3rem; white-space: nowrap; color: var(--ink); }
header.bar nav a[aria-current=page] { box-shadow: inset 0 -3px var(--link); font-weight: 600; }
.brand { font-weight: 700; font-size: 1.1rem; }
.content { display: block; padding: 1rem; max-width: 110rem; margin: 0 auto; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .7rem; font-weight: 650; }
h2 { font-size: 1.05rem; line-height: 1.3; margin: 1.2rem 0 .5rem; font-weight: 650; }
.soft { color: var(--soft); } .problem { color: var(--critical); }
.mono { font-family: ui-monospace, monospace; font-size: .85rem; }
.critical { color: var(--critical); } .warning { color: var(--warning); } .good { color: var(--good); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: .8rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; min-width: 0; }
.card h2 { margin: 0; } .row { display: flex; flex-wrap: wrap; gap: .5rem .8rem; align-items: center; }

.content > .row, .content > div > .row { margin: .5rem 0; }
.content > .detail { margin-top: .8rem; }
.between { justify-content: space-between; }
.facts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .3rem .8rem; margin-top: .5rem; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.spark { display: grid; grid-template-columns: 3.2rem 1fr; align-items: center;
        font-size: .8rem; color: var(--soft); margin-top: .3rem; }
.spark svg { width: 100%; height: 2.2rem; display: block; } .spark polyline { fill: none; stroke: var(--curve); stroke-width: 1.5; }
.list { list-style: none; margin: 0; padding: 0; }
.list li { padding: .4rem .2rem; border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: .2rem .8rem; }
.list a { display: contents; color: inherit; } .list li:focus-within { outline: 2px solid var(--focus); }
.grid { height: min(55vh, 44rem); width: 100%; } .chart { height: 17rem; width: 100%; }
.nicegui-echart text { fill: var(--ink) !important; }
.detail { display: grid; gap: .5rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22rem;
        overflow: auto; margin: 0; }
.strip { display: flex; gap: .5rem; overflow-x: auto; } .strip figure { margin: 0; flex: 0 0 auto; }
.strip img { height: 8.5rem; display: block; } .strip figcaption { font-size: .78rem; color: var(--soft); }
.strip figure.at img { outline: 3px solid var(--critical); }
.quiet .q-field__label, .q-field__native, .q-field__input { color: var(--ink); }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: .5rem; top: .5rem; background: var(--card); padding: .5rem; z-index: 10; }
@media (max-width: 700px) { .content { padding: .6rem; }
        .facts { grid-template-columns: repeat(2, 1fr); } .grid { height: 60vh; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
