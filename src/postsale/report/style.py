"""The page's style sheet: one column, plots for two widths, light and dark, colours that colour-blind people tell apart.

The palette is that of Okabe and Ito (Color Universal Design, 2008), with lighter and darker neighbours where a dark page needs them.
"""

from __future__ import annotations

from typing import Final

CSS: Final = (
    """
:root{--page:#fbfbfa;--card:#fff;--ink:#1c2024;--soft:#5b6470;--rule:#dfe3e8;--link:#005a96;
--good:#009e73;--fair:#f0c33c;--poor:#d55e00;--none:#b6bec8;--acted:#0072b2;--awaiting:#e69f00;--suppressed:#b6bec8;--failed:#a03060;
--up:#0072b2;--up2:#56b4e9;--up3:#9ad1f0;--down:#d55e00;--down2:#efa26b;--other:#b6bec8;--onlight:#1c2024;--ondark:#fff;--ongrey:#1c2024}
@media (prefers-color-scheme:dark){:root{--page:#15181c;--card:#1d2126;--ink:#e8eaed;--soft:#a7b0bb;--rule:#343a42;--link:#8cc8f2;
--good:#22b78d;--fair:#f0c33c;--poor:#e8793a;--none:#5d6670;--acted:#4ba3d9;--awaiting:#f0b03c;--suppressed:#5d6670;--failed:#d075a0;
--up:#4ba3d9;--up2:#2f6f97;--up3:#234f6b;--down:#e8793a;--down2:#9a5630;--other:#5d6670;--ondark:#10131a;--ongrey:#fff}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:840px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.9rem;line-height:1.15;margin:0 0 4px}
h2{font-size:1.25rem;line-height:1.25;margin:48px 0 4px}
h3{font-size:1rem;margin:0 0 2px}
p{margin:6px 0 12px}
a{color:var(--link)}
.soft,figcaption,caption,summary,.kind{color:var(--soft);font-size:.875rem}
.lead{font-size:1.1rem;line-height:1.55;margin:16px 0 8px}
nav{margin:18px 0 0;font-size:.9rem}
nav a{display:inline-block;margin:0 14px 4px 0;padding:3px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(172px,1fr));gap:10px;margin:20px 0 0;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 12px}
.tiles b{display:block;font-size:1.55rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tiles small{color:var(--soft);display:block;font-size:.8rem;line-height:1.35}
figure{margin:10px 0 0}
figure+figure,figure+h3,figure+.scroll{margin-top:26px}
svg{display:block;max-width:100%;height:auto;overflow:visible}
svg text{font-size:12px;fill:var(--soft)}
svg text.on{fill:var(--onlight);font-weight:600}
svg text.on-acted,svg text.on-up,svg text.on-failed,svg text.on-poor{fill:var(--ondark)}
svg text.on-suppressed,svg text.on-none{fill:var(--ongrey)}
svg text.total{fill:var(--ink);font-weight:600}
.narrow{display:none}
@media (max-width:800px){.wide{display:none}.narrow{display:block;width:100%;max-width:520px}}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}.mark{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:3 3}
.edge{stroke:var(--card);stroke-width:1}
"""
    + "".join(
        f".f-{c}{{fill:var(--{c})}}.l-{c}{{fill:none;stroke:var(--{c});stroke-width:2.5}}.b-{c}{{background:var(--{c})}}\n"
        for c in (
            "good",
            "fair",
            "poor",
            "none",
            "acted",
            "awaiting",
            "suppressed",
            "failed",
            "up",
            "up2",
            "up3",
            "down",
            "down2",
            "other",
        )
    )
    + """
.legend{margin:8px 0 6px;font-size:.875rem;color:var(--soft)}
.legend span{display:inline-block;margin-right:16px;white-space:nowrap}
.legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
details{margin:6px 0 0}
summary{cursor:pointer;padding:4px 0}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.875rem;line-height:1.4;margin:6px 0 10px;width:100%;overflow-wrap:normal}
caption{text-align:left;padding:0 0 4px}
th,td{text-align:left;vertical-align:top;padding:5px 12px 5px 0;border-bottom:1px solid var(--rule);font-weight:400}
thead th{color:var(--soft)}
td.num,th.num{text-align:right;font-variant-numeric:tabular-nums}td.num{white-space:nowrap}
.agent{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:14px 16px;margin:14px 0 0}
.cases{list-style:none;margin:10px 0 0;padding:0}
.cases li{border-left:4px solid var(--rule);padding:2px 0 4px 12px;margin:0 0 12px}
.cases .acted{border-color:var(--acted)}.cases .awaiting{border-color:var(--awaiting)}.cases .suppressed{border-color:var(--suppressed)}
.cases p{margin:2px 0}
@media (min-width:801px){.cases{display:grid;grid-template-columns:1fr 1fr;column-gap:20px}}
code{font:.82rem/1.4 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;color:var(--soft);overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 16px;font-size:.875rem;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media (max-width:480px){.tiles{grid-template-columns:1fr 1fr}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}h2{margin-top:36px}}
@media print{body{background:#fff}nav,summary{display:none}.agent,figure{break-inside:avoid}}
"""
)
