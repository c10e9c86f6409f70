"""The page of a run or of an experiment: one HTML file that opens without a network (docs/report.md).

run_page.py   what a page says of a run, from its directory
experiment_page.py  what the page of an experiment says, from the values of experiments.report
charts.py     the charts, as Vega-Lite specifications
svg.py        drawn by vl-convert, then checked: only shapes and text are let through
samples.py    completions and verdicts as the page's script reads them, up to a size
document.py   puts everything into page.html.jinja, under a content security policy
serve.py      --serve: the page of a running run on loopback
"""
