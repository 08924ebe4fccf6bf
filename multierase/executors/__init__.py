"""Where tasks are done: in this process, in others, on a cluster."""
