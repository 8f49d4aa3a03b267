"""Every loader of ours passes the battery that every loader has to pass."""

from __future__ import annotations

from clipsec.models import OpenClipLoader, PromptTunedLoader, TransformersLoader
from clipsec_testkit import ModelLoaderConformance
from clipsec_zoo import ZooLoader


class TestOpenClip(ModelLoaderConformance):
    make = OpenClipLoader


class TestPromptTuned(ModelLoaderConformance):
    make = PromptTunedLoader


class TestTransformers(ModelLoaderConformance):
    make = TransformersLoader


class TestZoo(ModelLoaderConformance):
    make = ZooLoader
