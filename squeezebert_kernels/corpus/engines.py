"""The engines: this process, or actors of Ray Data, works through the units. Both run the same worker."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import _native
from ..console import UserError
from ..machine import usable_cpus
from ..models.hub import reachable
from .encoder import Encoder, Progress
from .job import Bad, Done, Job, Unit, need, one_line
from .output import write_unit
from .rows import Reader

OBJECT_STORE = 128 << 20  # bytes: units and results are small, texts and embeddings do not pass through Ray


class Worker:
    """Reads, computes and writes units."""

    def __init__(self, job: Job, encoder: Encoder | None = None) -> None:
        self.job = job
        need("pyarrow.parquet", "corpus")
        need("pyarrow", "corpus").array([])  # imports pandas, if it is there: now, rather than in the time of a unit
        self.encoder = encoder or Encoder(job)
        self.reader = Reader(job)

    def __call__(self, unit: Unit, progress: Progress | None = None) -> Done:
        """Does ``unit``, from its file to its file.

        Raises:
            UserError: the input has changed or cannot be read.
            OSError: the output cannot be written.
        """
        start, cpu = time.perf_counter(), time.process_time()
        rows = self.reader(unit)
        read = time.perf_counter()
        encoded = self.encoder(rows.texts, progress)
        computed = time.perf_counter()
        numbers, ids, values, bad = rows.numbers, rows.ids, encoded.values, rows.bad
        if not encoded.finite.all():
            good = np.flatnonzero(encoded.finite)
            for i in np.flatnonzero(~encoded.finite):
                bad.append(Bad(unit.name, numbers[i], "the result is not finite"))
            bad.sort(key=lambda one: one.row)
            numbers = [numbers[i] for i in good]
            ids = None if ids is None else ids.take(good)
            values = values[good] if self.job.task == "embed" else ([values[0][i] for i in good], values[1][good])
        size = write_unit(self.job, unit, numbers, ids, values, bad)
        seconds = {"reading": read - start, **encoded.seconds, "writing": time.perf_counter() - computed}
        cpu = time.process_time() - cpu
        return Done(len(numbers), bad, encoded.tokens, encoded.longest, size, _native.isa(), cpu, seconds)


def run_local(job: Job, units: Sequence[Unit], encoder: Encoder, progress: Progress) -> Generator[Done, None, None]:
    """Does the units in this process, one by one."""
    worker = Worker(job, encoder)
    for unit in units:
        yield worker(unit, progress)


class RayWorker:
    """A :class:`Worker` in an actor. Nothing raises here: Ray would try again, and again."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            self.worker = self.worker or Worker(self.job)
            done = self.worker(Unit(**json.loads(row["unit"])))
            return {"done": json.dumps(asdict(done)), "failure": ""}
        except (UserError, OSError) as error:
            return {"done": "", "failure": failure(error)}
        except Exception as error:
            return {"done": "", "failure": f"{row['unit']}: {one_line(error)}"}


def failure(error: UserError | OSError) -> str:
    """One line about what ended a worker; input that cannot be read is a UserError already."""
    if isinstance(error, UserError):
        return str(error)
    return f"the output cannot be written: {error.strerror or one_line(error)}"


def run_ray(job: Job, units: Sequence[Unit], workers: int | None, address: str | None) -> Generator[Done, None, None]:
    """Does the units in ``workers`` actors of ``job.threads`` CPUs each; their results come as they finish.

    Args:
        job: what to do; a folder of a model, input and output must be there under the same names on every node.
        units: what to do it with.
        workers: None takes as many as there are CPUs for.
        address: of a running cluster, "auto" for the one on this machine; None takes RAY_ADDRESS, or starts Ray here.

    Raises:
        UserError: Ray is not installed, cannot be reached or has too few CPUs; or a worker failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = need("ray", "ray")
    data = need("ray.data", "ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    was_running = ray.is_initialized()
    if not was_running:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            options["address"] = address
            # Ray itself would go on trying for more than ten minutes.
            if ":" in address and not reachable(address if "://" in address else f"ray://{address}"):
                raise UserError(f"--ray-address: nothing answers at {address}")
        else:
            cpus = max(usable_cpus(), (workers or 1) * job.threads)
            options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        try:
            ray.init(**options)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"Ray does not start: {one_line(error)}") from None
    try:
        workers = _possible_workers(ray, job, workers)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
        # A block per unit: a block is what Ray hands out, does again when a node is lost, and reports when it is done.
        # One at a time for each actor, so that none has work queued while another has none.
        actors = data.ActorPoolStrategy(size=min(workers, len(rows)), max_tasks_in_flight_per_actor=1)
        results = data.from_items(rows, override_num_blocks=len(rows)).map(
            RayWorker, fn_constructor_kwargs={"job": job}, compute=actors, num_cpus=job.threads
        )
        for row in results.iter_rows():
            if row["failure"]:
                raise UserError(row["failure"])
            found = json.loads(row["done"])
            yield Done(**{**found, "bad": [Bad(**one) for one in found["bad"]]})
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray: {one_line(error)}") from None
    finally:
        if not was_running:
            ray.shutdown()


def _possible_workers(ray: Any, job: Job, workers: int | None) -> int:
    """How many actors of ``job.threads`` CPUs there will be; UserError where Ray would wait for ever."""
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    possible = sum(n // job.threads for n in cpus)
    if possible < (workers or 1):
        raise UserError(
            f"--workers {workers or 1} of --threads {job.threads} each do not fit: "
            f"Ray's nodes have {cpus} CPUs, room for {possible}"
        )
    return workers or possible
