"""The benchmark's own arithmetic, and what it reads from others; no measuring."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import arithmetic
from bench.envoy_configs import bare, gcp_authn
from bench.load import read_h2load
from bench.plot import Bar, bars

REPORT = """\
finished in 1.50s, 2.67 req/s, 1.2KB/s
requests: 4 total, 4 started, 4 done, 3 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 1 5xx
"""


def test_ratio_compares_within_a_round_only() -> None:
    # Twice as slow a machine in round 1 and 2: medians of each side alone would say 1.5 / 1.
    mine, base = {0: 3.0, 1: 6.0, 2: 6.0}, {0: 2.0, 1: 4.0, 2: 4.0}
    assert arithmetic.ratio_within_rounds(mine, base) == 1.5
    assert arithmetic.ratio_within_rounds({0: 3.0, 1: 9.0}, {0: 2.0}) == 1.5
    assert math.isnan(arithmetic.ratio_within_rounds({0: 3.0}, {0: 0.0}))


def test_median_leaves_out_what_was_not_measured() -> None:
    assert arithmetic.median([1.0, float("nan"), 3.0]) == 2.0
    assert math.isnan(arithmetic.median([]))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)])
def test_percentile(share: float, expected: float) -> None:
    assert arithmetic.percentile(list(range(100, 0, -1)), share) == expected


def test_per_request_and_memory() -> None:
    assert arithmetic.per_request_us(0.5, 1000) == 500
    assert math.isnan(arithmetic.per_request_us(0.5, 0))
    assert arithmetic.beyond_own_size_mb(60, 75, 9_000_000) == 6


def test_counters_are_summed_over_labels_and_not_over_namesakes() -> None:
    text = 'checks_total{a="1"} 2.0\nchecks_total{a="2"} 3.0\nchecks_total_created 9.0\n'
    assert arithmetic.counter_sum(text, "checks_total") == 5


def test_h2load_report() -> None:
    outcome = read_h2load(REPORT, ["1\t200\t300", "2\t200\t100", "3\t503\t200"], 4)
    assert (outcome.errors, outcome.seconds, outcome.p50) == (1, 1.5, 200)
    with pytest.raises(ValueError, match="something else"):
        read_h2load("no report", [], 4)


def test_bare_and_gcp_authn_hold_nothing_of_ours() -> None:
    config = bare(Path("/ca.pem"), "TOKEN")
    for text in (repr(config), repr(gcp_authn(config, "127.0.0.1:1", None, "https://a.example"))):
        assert "filters.http.ext_authz" not in text
        assert "filters.http.lua" not in text
        assert "dynamic_metadata" not in text
        assert "envoy.filters.http.router" in text
    static = repr(gcp_authn(config, "127.0.0.1:1", "127.0.0.1:2", "https://a.example"))
    assert "filters.http.dynamic_forward_proxy" not in static


def test_picture_is_well_formed_and_stays_inside() -> None:
    picture = bars("a < b", ("x", "y"), [Bar("one & two", (3.0, 1.0), "4"), Bar("b", (2.0,), "2")])
    root = ET.fromstring(picture)
    width = float(root.attrib["viewBox"].split()[2])
    rects = [e for e in root if e.tag.endswith("rect")][3:]
    assert len(rects) == 3
    assert all(float(e.attrib["x"]) + float(e.attrib["width"]) <= width for e in rects)
