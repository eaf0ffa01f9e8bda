"""Registries: entering, finding, and the words for what is not there."""

import pytest

from codes.config.registry import Registry, nearest
from codes.utils.errors import ConfigError


@pytest.fixture
def fruit():
    registry = Registry("fruit")

    @registry.register("apple", "pomme")
    class Apple:
        pass

    registry.register("pear")(len)
    return registry, Apple


def test_names_lead_to_the_entry_itself(fruit):
    registry, apple = fruit
    assert registry.get("apple") is registry.get("pomme") is apple
    assert registry.get("pear") is len
    assert registry.names() == ["apple", "pear", "pomme"]
    assert "apple" in registry
    assert "grape" not in registry


@pytest.mark.parametrize("name", [None, 5, (1, 2)])
def test_what_is_no_name_is_not_in_it(fruit, name):
    assert name not in fruit[0]


def test_an_unknown_name_tells_the_nearest_and_all(fruit):
    with pytest.raises(ConfigError) as caught:
        fruit[0].get("aple")
    assert str(caught.value) == "unknown fruit 'aple' (did you mean apple? known: apple, pear, pomme)"
    assert fruit[0].unknown(7) == "unknown fruit 7 (known: apple, pear, pomme)"


def test_a_name_is_taken_once_and_the_first_stays(fruit):
    registry, apple = fruit
    with pytest.raises(ConfigError, match="'apple' is registered twice"):
        registry.register("apple")(dict)
    assert registry.get("apple") is apple


def test_nearest_wants_a_resemblance():
    assert nearest("mega_batch_facter", ["niter", "mega_batch_factor"]) == "mega_batch_factor"
    assert nearest("xyz", ["niter", "mega_batch_factor"]) is None
    assert nearest("x", []) is None
