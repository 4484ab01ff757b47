"""The picture: every number is where it belongs."""

import xml.etree.ElementTree as ET

from benchmarks.operator.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, panel, picture


def line(name, jobs, ours, peer, **more):
    return {"name": name, "jobs": jobs, "ours": ours, "peer": peer, "unit": "s", **more}


def test_both_axes_are_logarithmic_from_the_least_to_the_greatest():
    lines = [line("x", 10, 1.0, 100.0), line("x", 100, 10.0, 1.0), line("x", 1000, 100.0, None)]
    drawn = panel("x", lines)
    left, right, bottom, top = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    middle = f"{(left + right) / 2:.1f},{(bottom + top) / 2:.1f}"
    assert f'points="{left:.1f},{bottom:.1f} {middle} {right:.1f},{top:.1f}"' in drawn
    assert f'points="{left:.1f},{top:.1f} {(left + right) / 2:.1f},{bottom:.1f}"' in drawn


def test_the_picture_is_an_svg_with_a_panel_for_each_measure():
    lines = [
        line("stage_rate", 400, 17.1, 10.3, floor=22.0),
        line("memory_peak", 400, 0.0, None),
        line("other", 1, 1, 1),
    ]
    root = ET.fromstring(picture(lines))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "stage rate (s)" in texts
    assert "memory peak (s)" in texts
    assert not any(text and text.startswith("other") for text in texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 3
