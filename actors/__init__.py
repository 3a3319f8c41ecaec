"""Everything that needs Ray.

``app`` starts Ray, the embedded servers and the coordinator. The coordinator, the one actor that Ray restarts, starts
collectors and sinks and replaces them when they die. Collectors hand Arrow batches to sinks; sinks acknowledge.
"""

import os

# Ray prints a long text about each worker that dies, whatever it is told; the coordinator says it in a line. Ray reads
# this when it is imported, so it is set before.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed while executing a task")
