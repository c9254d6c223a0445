"""What the page runs. Read in this order: registry (what waits, runs, ended), runners, worker (the process)."""
