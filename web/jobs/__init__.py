"""Jobs of the page. Read in this order: requests, registry (queues, job files), reports, runners, worker (process)."""
