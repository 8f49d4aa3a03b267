"""PEP 740: who published a wheel, as attested to an index and proven with sigstore.

An attestation is over the wheel, and what is trusted is what was installed from it; so the wheel is needed
again, and its files are compared with those that are installed. Nothing is fetched: sigstore's trust root is
the one that ships with the library.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from clipsec_registry._errors import SignatureError
from clipsec_registry._text import printable

_FORMS = "github:OWNER/REPOSITORY/WORKFLOW.yml, gitlab:GROUP/PROJECT//FILE.yml, google:EMAIL or "
_FORMS += "circleci:PROJECT-ID/PIPELINE-ID"


def verify_wheel(wheel: Path, provenance: Path, publisher: str) -> None:
    """Check that `publisher` published exactly this wheel.

    `provenance` is the JSON of an index's integrity API, or one attestation. Raises `SignatureError` if it
    was published by anybody else or cannot be verified, or without the library pypi-attestations.
    """
    try:
        import pypi_attestations as pep740
        from sigstore.errors import Error as SigstoreError
    except ImportError as error:
        raise SignatureError(
            "attestations need the library pypi-attestations, which is not installed",
            remedy="Run `pip install 'clipsec-registry[attestations]'`.",
        ) from error
    identity = _publisher(pep740, publisher)
    # It warns of working offline, which is meant.
    logging.getLogger("sigstore").setLevel(logging.ERROR)
    try:
        content = provenance.read_bytes()
        attestations = _attestations(pep740, content)
        subject = pep740.Distribution.from_file(wheel)
    except (OSError, ValueError) as error:
        raise SignatureError(
            f"{printable(provenance)} holds no attestation of {printable(wheel)}: {printable(error)}",
            remedy="Fetch both again from the index: the wheel with `pip download`, its provenance from "
            "/integrity/PROJECT/VERSION/FILE/provenance.",
        ) from error
    complaint = "there is none"
    for attestation in attestations:
        try:
            kind, _ = attestation.verify(identity, subject, offline=True)
        except (ValueError, SigstoreError) as error:
            complaint = printable(error)
            continue
        if kind == pep740.AttestationType.PYPI_PUBLISH_V1:
            return
        complaint = f"it is not about publishing, but {printable(kind)}"
    raise SignatureError(
        f"no attestation says that {printable(publisher)} published {wheel.name}: {complaint}",
        remedy="Compare the publisher with the vendor's own page; if it is right, fetch wheel and provenance "
        "again, and upgrade sigstore.",
    )


def _attestations(pep740: Any, content: bytes) -> list[Any]:
    try:
        bundles = pep740.Provenance.model_validate_json(content).attestation_bundles
    except ValueError:
        return [pep740.Attestation.model_validate_json(content)]
    return [attestation for bundle in bundles for attestation in bundle.attestations]


def _publisher(pep740: Any, text: str) -> Any:
    kind, _, who = text.partition(":")
    if kind == "github" and who.count("/") == 2:
        owner, name, workflow = who.split("/")
        return pep740.GitHubPublisher(repository=f"{owner}/{name}", workflow=workflow)
    if kind == "gitlab" and "//" in who:
        project, _, path = who.partition("//")
        return pep740.GitLabPublisher(repository=project, workflow_filepath=path)
    if kind == "google" and "@" in who:
        return pep740.GooglePublisher(email=who)
    if kind == "circleci" and who.count("/") == 1:
        project, pipeline = who.split("/")
        # Which pipeline of which project is the identity; repository and branch are not compared.
        return pep740.CircleCIPublisher(project_id=project, pipeline_definition_id=pipeline)
    raise SignatureError(f"{printable(text)} does not name a publisher", remedy=f"Write {_FORMS}.")
