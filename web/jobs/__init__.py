"""Jobs of the page. Read in this order: requests, registry (queues and job files), runners, worker (the process)."""
