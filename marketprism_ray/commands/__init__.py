"""The commands of ``marketprism``, one module a group. What needs a cluster imports ``actors`` when it runs."""
