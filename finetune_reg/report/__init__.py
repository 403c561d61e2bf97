"""The report of a folder of records: one page.

page.py          sections, figures, published figures and verdicts, put into the template page.html.jinja
page_tables.py   its tables, formatted for people
at_a_glance.py   scope, scale, runs, verdicts, hardware and time, for the top of the page
layout.py        the form of all pages: layout.html.jinja, macros.html.jinja
checklist.py     the reproducibility checklist, answered from the records
"""
