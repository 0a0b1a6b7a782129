"""Reads ``scenario_lines.txt``: the event lines expected for each recorded scenario."""

from __future__ import annotations

from pathlib import Path

EPOCH = 1795378000
JOB_WORDS = {"start": "job_start", "end": "job_end", "gone": "jobset_delete"}
TASK_WORDS = {"run": "task_start", "done": "task_end"}


def _time(word: str) -> str:
    return "0.000000" if word == "-" else f"{EPOCH + int(word)}.000000"


def _line(words: list[str], uid: str, gid: str) -> str:
    if words[0] in JOB_WORDS:
        kind, job, start, end, nodes, total, local = words
        return (
            f'{JOB_WORDS[kind]}: {{"job_id":"slurm_{job}","uid":{uid},"gid":{gid},'
            f'"job_start":{_time(start)},"job_end":{_time(end)},"node_count":{nodes},'
            f'"total_tasks":{total},"local_tasks":{local}}}'
        )
    kind, task, pid, rank, start, end, status = words
    return (
        f'{TASK_WORDS[kind]}: {{"task_id":"{task}","task_pid":{pid},"task_rank":{rank},'
        f'"task_start":{_time(start)},"task_end":{_time(end)},"task_exit_status":{status}}}'
    )


def expected_lines() -> dict[str, list[str]]:
    """Scenario name -> its lines without newline, in order."""
    result: dict[str, list[str]] = {}
    uid = gid = "0"
    for text in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines():
        words = text.split("#")[0].split()
        if not words:
            continue
        if words[0] == "scenario":
            options = dict(word.split("=") for word in words[2:])
            uid, gid = options.get("uid", "0"), options.get("gid", "0")
            lines = result[words[1]] = []
        else:
            lines.append(_line(words, uid, gid))
    return result
