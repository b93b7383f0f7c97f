"""The documents name what there is: files, tests, commands and settings."""

import dataclasses
import re
from pathlib import Path

import pytest

from causeway.cluster.cli.main import COMMANDS
from causeway.cluster.config import RunConfig, run_config_class
from causeway.learners.registry import algorithms

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def code_in(text):
    """What stands in backticks or in a block of code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return blocks + re.findall(r"`([^`\n]+)`", rest)


@each_document
def test_links_lead_to_files_that_exist(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    inner = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in inner if not (document.parent / link).exists()] == []


@each_document
def test_tests_that_are_named_exist(document):
    named = re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", document.read_text(encoding="utf-8"))
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


@each_document
def test_source_files_that_are_named_exist(document):
    text = " ".join(code_in(document.read_text(encoding="utf-8")))
    named = re.findall(r"\b((?:actors|cluster|datasets|learners|tests)/[\w/]+\.\w+)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@each_document
def test_commands_that_are_named_exist(document):
    text = "\n".join(code_in(document.read_text(encoding="utf-8")))
    named = set(re.findall(r"(?:^|\n)causeway ([a-z][\w-]*)", text))
    assert named <= {command.name for command in COMMANDS}


@each_document
def test_settings_that_are_named_exist(document):
    sections = {
        field.name: {setting.name for setting in dataclasses.fields(field.type)}
        for field in dataclasses.fields(RunConfig)
        if field.name != "hyperparameters"
    }
    sections["hyperparameters"] = {
        setting.name
        for name in algorithms()
        for setting in dataclasses.fields(run_config_class(name)().hyperparameters)
    }
    for code in code_in(document.read_text(encoding="utf-8")):
        settings = rf"(?:^|--)({'|'.join(sections)})\.(?!py\b|md\b|yaml\b)(\w+)(?![\w(.])"
        for section, setting in re.findall(settings, code):
            assert setting in sections[section], f"{section}.{setting}"
