"""One DRAM channel's controller: queues, scheduler, refresh, and the commands that it sends to the banks."""
