"""Everything that needs Ray.

``app`` starts Ray, the embedded servers and the coordinator. The coordinator, the one actor that Ray restarts, starts
collectors and sinks and replaces them when they die. Collectors hand Arrow batches to sinks; sinks acknowledge.
"""
