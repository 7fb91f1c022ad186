"""Ranks whole files. From a row to a result:

tables.py    files → rows: jsonl, csv, tsv, parquet
records.py   rows → records, each a query with its passages (pure)
corpus.py    passages by id, on disk
source.py    the two together: the records of an input, as often as they are asked for
plan.py      records → requests, and answers → rankings (pure)
dispatch.py  sends requests at once and in bounds, by server.py
journal.py   keeps every answer, so that a run goes on where it was killed
write.py     rankings → files
job.py       the story of a run; progress.py its bar
command.py   the command line; options.py what it asks for
"""
