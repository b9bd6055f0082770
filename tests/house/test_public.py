"""The public API is what `tilth.__all__` says, and every verb and contract is documented."""

from __future__ import annotations

import importlib
from pathlib import Path

import click
import pytest

import tilth
from tilth import contracts
from tilth.cli.main import cli


def test_every_public_name_loads() -> None:
    assert tilth.__all__ == sorted(tilth.__all__)
    assert len(tilth.__all__) <= 25
    for name in tilth.__all__:
        assert getattr(tilth, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `corpora`"):
        _ = tilth.corpora


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_has_help_and_is_in_the_readme(verb: str, repository: Path) -> None:
    command = cli.commands[verb]
    assert command.help
    undocumented = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert not undocumented
    assert f"tilth {verb}" in (repository / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in contracts.__all__ if name.isupper()])
def test_every_contract_is_in_the_architecture_page(name: str, repository: Path) -> None:
    contract = getattr(contracts, name)
    assert contract.schema.metadata[b"tilth.contract"].decode() == contract.label
    assert f"`{contract.label}`" in (repository / "docs" / "contracts.md").read_text()


def test_every_error_is_in_the_tree_of_its_module() -> None:
    errors = importlib.import_module("tilth.errors")
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)
    assert {kind.exit_code for kind in kinds} == {1, 2}
