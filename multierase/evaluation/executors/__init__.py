"""Where sets of concepts are observed: in this process, in others, on a cluster."""
