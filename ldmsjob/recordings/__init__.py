"""Recorded Slurm messages: what the demo, the benchmarks and the tests replay.

``slurm-messages.jsonl`` holds 335 messages of the SPANK plugin ``slurm_notifier`` for 34 real job
scenarios, one JSON object per line: ``scenario``, ``seq``, ``t_offset_ms`` (arrival, from the
scenario's first message), ``message`` (None with ``raw`` where the notifier sent invalid JSON).
"""
