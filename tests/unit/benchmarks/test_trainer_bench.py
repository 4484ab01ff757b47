"""The benchmark itself, as small as it gets: without peers it says so and still measures ours and the floor."""

from __future__ import annotations

import json

from benchmarks.trainer.__main__ import main


def test_ours_alone(capsys):
    main(["--model", "tiny", "--only", "reinforce", "gang", "--rounds", "1", "--epochs", "1", "--threads", "1"])
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    measured = {"reinforce_images_per_s", "reinforce_peak_mib", "checkpoint_share_of_time", "two_process_speedup"}
    assert rows.keys() == measured
    assert rows["two_process_speedup"]["two_images_per_s"] > 0
    speed = rows["reinforce_images_per_s"]
    assert speed["peer"] is None
    assert "--peers-python" in speed["reason"]
    assert speed["ours"] > 0
    assert speed["floor"] > 0
    assert speed["ratio"] == speed["ours_of_floor"] > 0
    assert rows["reinforce_peak_mib"]["ours"] > 100
    assert 0 < rows["checkpoint_share_of_time"]["ours"] < 1
