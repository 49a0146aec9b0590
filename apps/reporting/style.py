"""The frame of the report page: one file, light and dark, for screens of any width and paper."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: fleke-flwr report</title>
<link rel="icon" href="data:,">
<style>
:root {{ --text: #24292f; --dim: #57606a; --line: #d8dee4; --page: #ffffff; --band: #f6f8fa;
  --mark: #1f5fae; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --text: #e6edf3; --dim: #9198a1; --line: #30363d; --page: #0d1117; --band: #161b22;
    --mark: #58a6ff; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1160px; padding: 32px 24px 64px; color: var(--text);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 26px; margin: 0 0 12px; overflow-wrap: anywhere; }}
h2 {{ font-size: 19px; margin: 44px 0 12px; scroll-margin-top: 12px; }}
h3 {{ font-size: 14px; margin: 24px 0 6px; }}
.summary {{ font-size: 17px; max-width: 72ch; margin: 0 0 18px; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0; padding: 0; list-style: none;
  font-size: 13px; }}
nav a {{ color: var(--mark); }}
dl {{ display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 0 0 16px; padding: 14px 18px;
  background: var(--band); border-radius: 8px; }}
dt {{ color: var(--dim); font-size: 12px; }}
dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
:focus-visible {{ outline: 2px solid var(--mark); outline-offset: 2px; }}
table {{ border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; font-size: 13px; }}
table.narrow {{ width: auto; }}
caption {{ text-align: left; color: var(--dim); font-size: 13px; padding: 0 0 4px; }}
th, td {{ padding: 6px 7px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top; }}
thead th {{ font-size: 12px; color: var(--dim); vertical-align: bottom; white-space: normal; }}
tbody th {{ font-weight: 400; }}
th:first-child, td:first-child, .words th, .words td {{ text-align: left; }}
.words td {{ white-space: normal; overflow-wrap: break-word; min-width: 9ch; }}
th small, td small {{ color: var(--dim); }}
tr.bound > * {{ background: var(--band); }}
tr.base > * {{ color: var(--dim); }}
td .list {{ display: inline-block; max-width: 46ch; white-space: normal; }}
table i {{ display: inline-block; width: 10px; height: 10px; border-radius: 2px;
  margin-right: 7px; }}
figure {{ margin: 0 0 12px; }}
figure img {{ width: 100%; height: auto; display: block; }}
figcaption, .note {{ color: var(--dim); font-size: 13px; max-width: 80ch; }}
details {{ margin: 8px 0; }}
summary {{ cursor: pointer; font-size: 13px; color: var(--dim); }}
details[open] > summary {{ margin-bottom: 6px; }}
pre {{ background: var(--band); padding: 14px; border-radius: 8px; font-size: 12px;
  overflow-x: auto; }}
code {{ overflow-wrap: anywhere; }}
@media (max-width: 640px) {{
  body {{ padding: 20px 14px 48px; }}
  .summary {{ font-size: 16px; }}
  dl {{ gap: 6px 20px; padding: 12px 14px; }}
  figure img {{ min-width: 600px; }}
}}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 11px; }}
  nav {{ display: none; }}
  .wide {{ overflow: visible; }}
  table {{ font-size: 9px; }}
  figure, tr, dl {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
}}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="summary">{summary}</p>
{contents}
</header>
<main>
{body}
</main>
</body>
</html>
"""
