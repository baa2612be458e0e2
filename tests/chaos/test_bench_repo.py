"""The comparison of repositories measures what it says, with a few small objects."""

import json
import random
import threading

import pytest

from chaos.bench_repo import many, sink
from chaos.bench_repo.__main__ import main
from chaos.bench_repo.client import Connection, listed, make_bodies, share
from chaos.bench_repo.layout import fill
from chaos.bench_repo.servers import ONE_COPY, WITH_STANDBY, Programs, served
from leaseha.errors import LabError

TINY = ["--rounds=1", "--objects=2", "--mib=1", "--ranges=4", "--listing=3", "--uploads=2", "--touch=0"]
NOBODY = ["--rest-server", "/nonexistent", "--rclone", "/nonexistent"]


def test_every_case_of_ours_is_measured_and_written(tmp_path):
    """Where rest-server and rclone are not installed they are left out."""
    out = tmp_path / "out"
    assert main([*TINY, *NOBODY, "--folder", str(tmp_path), "--out", str(out)]) == 0
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    found = {(row["system"], row["case"], row["connections"]) for row in rows}
    for system in (ONE_COPY, WITH_STANDBY):
        assert {(system, case, at) for case in ("POST", "GET", "range") for at in (1, 4)} <= found
        assert (system, "memory", 2) in found
    assert (ONE_COPY, "listing", 1) in found
    assert all(row["value"] > 0 for row in rows if row["unit"] not in {"s", "s/GiB"})
    assert ONE_COPY in out.with_suffix(".md").read_text()
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert not list(tmp_path.glob("leaseha-bench-*"))


def test_many_objects_are_listed_compared_and_taken_over(tmp_path):
    out = tmp_path / "many"
    assert many.main(["--objects", "1000", "--folder", str(tmp_path), "--out", str(out)]) == 0
    few, much = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert (few["listed"], much["listed"]) == (1, 1000)
    assert len(much["takeovers_s"]) == many.TAKES
    assert much["compare_s"] > 0


def test_a_wrong_answer_is_no_figure(tmp_path):
    """An upload that is refused, and an object of another size, end the measurement."""
    body = make_bodies(1, 1000, 1)[0]
    with served(ONE_COPY, Programs(), tmp_path / "data") as running:
        one = Connection(running.port)
        one.post("/r/?create=true")
        one.post(f"/r/data/{body.name}", body)
        with pytest.raises(LabError, match="1001 were expected"):
            one.get(f"/r/data/{body.name}", 1001)
        one.close()
        with pytest.raises(LabError, match="answered"):
            share(running.port, 2, [lambda at: at.post(f"/r/data/{'0' * 64}", body)])
    assert threading.active_count() < 10


def test_the_objects_that_are_laid_out_are_listed(tmp_path):
    fill(tmp_path, "r", 300, random.Random(1))
    with served(ONE_COPY, Programs(), tmp_path) as running:
        assert listed(running.port, "/r/data/") == 300


def test_the_client_alone_can_be_measured(capsys):
    assert sink.main(["--objects=2", "--mib=1", "--ranges=4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
