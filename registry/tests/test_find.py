"""What a name means."""

from __future__ import annotations

import pytest

from clipsec_registry import (
    Kind,
    PluginConflictError,
    PluginLoadError,
    PluginNotFoundError,
    PluginTrustError,
    Registry,
    Status,
)


def test_a_unique_bare_name_is_enough(install):
    """A bare name means the only plugin that has it, in any spelling."""
    install("vendor-x", {"Spectral_Scan": "vendor_x:Plugin"})
    registry = Registry()
    for name in ("Spectral_Scan", "spectral-scan", "vendor-x/spectral.scan", "Vendor_X/Spectral_Scan"):
        assert registry.find("detectors", name).canonical_name == "vendor-x/spectral-scan"


def test_names_are_per_kind(install):
    """An attack and a detector may share a name; without a kind it is ambiguous."""
    text = "[clipsec.detectors]\nx = vendor_x:Plugin\n[clipsec.attacks]\nx = vendor_x:Plugin\n"
    install("vendor-x", entry_points=text)
    registry = Registry()
    assert [record.status for record in registry.records() if record.name == "x"] == [Status.OK] * 2
    assert registry.find(Kind.ATTACKS, "x").kind is Kind.ATTACKS
    with pytest.raises(PluginConflictError, match=r"vendor-x/x \(attacks\), vendor-x/x \(detectors\)"):
        registry.find(None, "x")


def test_a_shared_name_is_nobodys(install):
    """Two third parties with one name conflict; each answers to its canonical name, and to that only."""
    for name in ("vendor-a", "vendor-b"):
        install(name, {"spectral": f"{name.replace('-', '_')}:Plugin"})
    registry = Registry("detectors")
    shared = [record for record in registry.records() if record.name == "spectral"]
    assert [record.status for record in shared] == [Status.CONFLICTING] * 2
    assert shared[0].reason == "vendor-b/spectral has the same name"
    with pytest.raises(PluginConflictError, match="vendor-a/spectral, vendor-b/spectral"):
        registry.find("detectors", "spectral")
    assert registry.load(shared[0]) is None
    chosen = registry.find("detectors", "vendor-b/spectral")
    assert chosen.status is Status.OK
    assert registry.load(chosen).__module__ == "vendor_b"
    assert registry.record(chosen).status is Status.OK
    assert registry.record(shared[0]).status is Status.CONFLICTING


def test_a_reserved_name_stays_with_its_owner(install):
    """A third party that offers a first-party name conflicts; the owner is not disturbed."""
    install("clipsec-planted-check", {"planted-check": "clipsec_planted_check:Plugin"})
    install("vendor-fake", {"PLANTED-CHECK": "vendor_fake:Plugin"})
    registry = Registry("detectors")
    assert registry.find("detectors", "planted-check").distribution == "clipsec-planted-check"
    assert registry.find("detectors", "planted-check").status is Status.OK
    impostor = registry.find("detectors", "vendor-fake/planted-check")
    assert (
        impostor.reason
        == "chosen by its canonical name; the name PLANTED-CHECK is reserved for clipsec-planted-check"
    )


def test_an_impostor_does_not_inherit_a_missing_owners_name(install):
    """While the owner is not installed, its name finds nothing, and the remedy installs the owner."""
    install("vendor-fake", {"planted_check": "vendor_fake:Plugin"})
    with pytest.raises(
        PluginNotFoundError, match="vendor-fake/planted-check is reached only by its canonical"
    ) as caught:
        Registry().find("detectors", "planted_check")
    assert "pip install clipsec-planted-check" in caught.value.remedy


@pytest.mark.parametrize(
    "name", ["amdet", "A.M.D.E.T", "am_det", "dife", "Neural_Cleanse", "clipsec-anything"]
)
def test_reserved_in_every_spelling(install, name):
    """Separators and case do not make a reserved name free."""
    install("vendor-fake", {name: "vendor_fake:Plugin"})
    [record] = [record for record in Registry().records() if record.distribution == "vendor-fake"]
    assert record.status is Status.CONFLICTING
    assert "is reserved for clipsec" in record.reason


def test_unknown_names_get_a_suggestion(install):
    """A misspelt name is answered with the closest, a known one with what to install."""
    install("vendor-x", {"spectral": "vendor_x:Plugin"})
    registry = Registry()
    with pytest.raises(PluginNotFoundError) as caught:
        registry.find("detectors", "spectrel")
    assert caught.value.remedy == "Did you mean spectral?"
    assert caught.value.exit_code == 4
    with pytest.raises(PluginNotFoundError) as caught:
        registry.find("detectors", "dife")
    assert "pip install clipsec-dife" in caught.value.remedy
    with pytest.raises(PluginNotFoundError) as caught:
        registry.find(None, "\x1b[2Jzzzzzzzz")
    assert str(caught.value) == "there is no plugin called \\x1b[2Jzzzzzzzz"


def test_the_same_name_twice_in_one_distribution(install):
    """A distribution that offers one name twice has made a mistake that no name can resolve."""
    install("vendor-x", {"a-b": "vendor_x:Plugin", "a_b": "vendor_x:Other"})
    [record] = [record for record in Registry().records() if record.distribution == "vendor-x"]
    assert (record.status, record.reason) == (Status.FAILED, "vendor-x offers it 2 times")


def test_require_lists_what_is_wrong(install):
    """Each missing or unusable plugin is one problem; with `load`, one that fails when imported too."""
    install("vendor-x", {"fine": "vendor_x:Plugin", "sad": "vendor_x:Missing"})
    install("vendor-mask", {"masked": "vendor_mask:Plugin"}, metadata="Name: other\nVersion: 1\n")
    registry = Registry()
    problems = registry.require(["fine", "sad", "masked", "absent"])
    assert [type(problem) for problem in problems] == [PluginTrustError, PluginNotFoundError]
    assert problems[0].plugin == "vendor-mask/masked"
    [problem] = registry.require(["vendor-x/fine", "sad"], load=True)
    assert isinstance(problem, PluginLoadError)
    assert "has no attribute 'Missing'" in str(problem)
    assert registry.require([]) == []
