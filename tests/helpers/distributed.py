"""Processes of a distributed run on this machine, and what the ranks of one say."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(
    rank: int, world: int, port: int, folder: str, job: Callable[..., Any], *arguments: Any
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=patience)
    try:
        answer = job(rank, *arguments)
    except BaseException:
        answer = traceback.format_exc()
    torch.save(answer, Path(folder) / f"{rank}.pt")
    with suppress(RuntimeError):  # where another rank has failed
        dist.barrier()
    os._exit(0)  # gloo's threads now and then abort a process that takes its leave


def run(world: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`job(rank, *arguments)` on every rank; what each returns, or the text of its error."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (world, port, folder, job, *arguments), world)  # type: ignore[no-untyped-call]
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]


def _each(rank: int, jobs: tuple[Callable[[int], Any], ...]) -> list[Any]:
    answers = []
    for job in jobs:
        try:
            answers.append(job(rank))
        except Exception:
            answers.append(traceback.format_exc())
    return answers


@functools.cache
def run_each(world: int, *jobs: Callable[[int], Any]) -> dict[Callable[[int], Any], list[Any]]:
    """By job, what `run` returns; all in one set of processes, whose start takes the longest."""
    ranks = run(world, _each, jobs)
    return {job: [answers[n] for answers in ranks] for n, job in enumerate(jobs)}
