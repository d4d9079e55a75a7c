"""Pictures of a run, and the page that shows them.

`page.pictures` draws what a run has, and the functions of `figures`,
`classifier_figures`, `code_figures` (what the units of a stochastic code keep)
and `density_figures` draw arrays; each makes a `Picture`, which a notebook
shows, and whose `figure()` is a matplotlib figure.
"""
