"""Jobs of the web UI.

Read in this order: requests, registry (queues, job files), uploads, reports, runners, songs, worker (process).
"""
