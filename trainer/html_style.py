"""Style and script of the HTML report: no outside file, light and dark by the reader's scheme, readable on a phone."""

CURVES = "".join(f".curve.line{i}{{stroke:var(--line{i})}}text.name.line{i}{{fill:var(--line{i})}}" for i in range(6))
STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1f2328;--faint:#5b636e;--line:#dcdee2;--own:#b3401f;--own-soft:#fbeee9;
--other:#7b8794;--line0:#7b8794;--line1:#2f6fb5;--line2:#3d8a5a;--line3:#8a5fb0;--line4:#b08300;--line5:#2e8b93}
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2024;--ink:#e6e8eb;--faint:#9aa3ae;--line:#343940;
--own:#ff9a76;--own-soft:#35241d;--other:#8b96a3;--line0:#9aa3ae;--line1:#7db3f0;--line2:#7fcf9d;--line3:#c7a3ea;
--line4:#e0bd4f;--line5:#74cfd6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:1180px;margin:0 auto;padding:0 16px}
h1{font-size:1.6rem;margin:24px 0 0}h2{font-size:1.2rem;margin:36px 0 8px}h3{font-size:1rem;margin:0}
p{margin:4px 0 12px;color:var(--faint);overflow-wrap:anywhere}small{display:block;color:var(--faint);font-weight:400}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:6px 9px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
thead th{font-size:.8rem}tbody th{text-align:left;position:sticky;left:0;background:var(--card);font-weight:500}
tr:last-child>*{border-bottom:0}tr.own>*{background:var(--own-soft)}tr.own th{color:var(--own);font-weight:700}
td b{font-weight:600}small{font-size:.72rem}
details{margin:10px 0}summary{cursor:pointer;color:var(--faint)}dt{font-weight:600;margin-top:6px}
dd{margin:0;color:var(--faint)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:16px}
.charts figure,.strip{margin:0;padding:12px;background:var(--card);border:1px solid var(--line);border-radius:8px}
.charts figcaption{font-weight:600;font-size:.9rem}svg{width:100%;height:auto;display:block;margin-top:6px}
text{font:11px system-ui,sans-serif;fill:var(--ink)}.tick{fill:var(--faint);font-size:10px}.grid{stroke:var(--line)}
circle.own{fill:var(--own);opacity:.65}circle.other{fill:var(--other);opacity:.5}
.mean{stroke-width:2}.mean.own{stroke:var(--own)}.mean.other{stroke:var(--ink)}
text.name.own{fill:var(--own);font-weight:700}
.curve{fill:none;stroke-width:1.6}.curve.own{stroke:var(--own);stroke-width:2.6}
""" + CURVES + """
.strip{margin:0 0 16px}.strip p{font-size:.82rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,150px),1fr));gap:10px}
.tile{margin:0}.tile figcaption{font-size:.8rem;color:var(--faint)}
.tile div{width:100%;aspect-ratio:var(--w)/var(--h);background-image:var(--sheet);border-radius:4px;
background-size:calc(100%*var(--frames)) calc(100%*var(--rows));
background-position:calc(100%*var(--frame)/max(1,var(--frames) - 1)) calc(100%*var(--row)/max(1,var(--rows) - 1))}
.strip label{display:flex;align-items:center;gap:10px;margin-top:10px;font-size:.9rem}
.strip output{min-width:2.5em;font-variant-numeric:tabular-nums}.strip input{flex:1;accent-color:var(--own);height:28px}
li{color:var(--faint);overflow-wrap:anywhere}main{padding-bottom:48px}
"""

SCRIPT = """
for (const strip of document.querySelectorAll(".strip")) {
  const frames = JSON.parse(strip.dataset.frames), input = strip.querySelector("input");
  input.addEventListener("input", () => {
    strip.style.setProperty("--frame", input.value);
    strip.querySelector("output").textContent = frames[input.value];
  });
}
"""
