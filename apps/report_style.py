"""The frame of the report page."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: fleke-flwr report</title>
<style>
:root {{ --text: #24292f; --dim: #57606a; --line: #d8dee4; --page: #ffffff; --band: #f6f8fa; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e6edf3; --dim: #9198a1; --line: #30363d; --page: #0d1117; --band: #161b22; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1240px; padding: 32px 24px 64px; color: var(--text);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 26px; margin: 0 0 16px; }}
h2 {{ font-size: 18px; margin: 40px 0 12px; }}
h3 {{ font-size: 14px; margin: 24px 0 6px; }}
dl {{ display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 0; padding: 14px 18px;
  background: var(--band); border-radius: 8px; }}
dt {{ color: var(--dim); font-size: 12px; }}
dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; font-size: 13px; }}
th, td {{ padding: 6px 7px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }}
th {{ font-size: 12px; color: var(--dim); vertical-align: bottom; white-space: normal; }}
td {{ vertical-align: top; }}
th:first-child, td:first-child {{ text-align: left; }}
td small {{ color: var(--dim); }}
tr.bound td {{ background: var(--band); }}
tr.base td {{ color: var(--dim); }}
td .list {{ display: inline-block; max-width: 46ch; white-space: normal; }}
table i {{ display: inline-block; width: 10px; height: 10px; border-radius: 2px;
  margin-right: 7px; }}
figure {{ margin: 0; }}
figure + .wide {{ margin-top: 16px; }}
figure img {{ width: 100%; max-width: 900px; height: auto; display: block; }}
figcaption, .note {{ color: var(--dim); font-size: 13px; max-width: 80ch; }}
a {{ color: inherit; }}
pre {{ background: var(--band); padding: 14px; border-radius: 8px;
  overflow-x: auto; font-size: 12px; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
