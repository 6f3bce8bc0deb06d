"""What a notebook shows is safe, small, and told in plain text as well."""

import base64
import html
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proofbook.verdict import Verdict
from proofbook.workbook.html import badge, facts, picture, player, table, waveform


@given(st.text(max_size=50))
def test_no_text_becomes_markup(text: str) -> None:
    shown = table(("name",), [(text,)])
    inside = re.search(r"<tbody><tr><td[^>]*>(.*)</td></tr></tbody>", shown.html, re.DOTALL)
    assert inside is not None
    assert "<" not in inside[1].replace("<wbr>", "")
    assert text in shown.text


@given(st.text("ab/._&<'", min_size=40, max_size=90))
def test_a_long_address_may_be_broken_and_reads_the_same(address: str) -> None:
    (cell,) = re.findall(r"<td[^>]*>(.*)</td>", table(("name",), [(address,)]).html)
    assert html.unescape(cell.replace("<wbr>", "")) == address


def test_the_address_of_a_file_breaks_behind_its_slashes() -> None:
    shown = table(("name",), [("https://host.example/owner/repository/file.py",)]).html
    assert "https://<wbr>host.<wbr>example/<wbr>owner/<wbr>repository/<wbr>file.<wbr>py" in shown


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_is_told_by_its_word_and_not_by_colour_alone(verdict: Verdict) -> None:
    shown = badge(verdict)
    assert str(verdict) in shown.html
    assert str(verdict) in shown.text


def test_a_picture_is_made_small_and_keeps_its_shape() -> None:
    shown = picture(Image.new("RGB", (1000, 500), "red"), side=100)
    data = re.search(r"base64,([^\"]+)", shown.html)
    assert data is not None
    assert Image.open(io.BytesIO(base64.b64decode(data[1]))).size == (100, 50)


def test_two_seconds_of_sound_take_less_than_fifty_kilobytes() -> None:
    samples = np.sin(np.arange(32000) / 20).astype(np.float32)
    shown = waveform(samples) + player(samples, 16000)
    assert len(shown.html) < 50_000
    assert "2.00 s" in shown.text


@pytest.mark.parametrize("samples", [np.zeros(100), np.ones(1), np.zeros((1, 1, 3))])
def test_silence_and_scraps_of_sound_can_be_shown(samples: np.ndarray) -> None:
    assert "audio" in player(samples, 24000).html
    assert "png" in waveform(samples).html


def test_html_inside_html_stays_as_it_is() -> None:
    inner = badge(Verdict.PASS)
    assert inner.html in facts([("verdict", inner)]).html
