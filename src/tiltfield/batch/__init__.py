"""Many series: one at a time on every worker of a Dask scheduler, each an ordinary run in a folder of its own.

`names` says which series and folders, `table` keeps the summary, `work` is what a worker does, `clusters` gives the
workers, `supervise` hands out the series, `board` shows it all, and `many` puts the parts together. Dask is imported
only when a batch is run.
"""
