"""The artifacts of wandb_server.py: collections, versions, aliases, manifests, lineage and links."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

ENTITY = "someone"
DATE = "2026-01-01T00:00:00Z"

numbers = itertools.count(1)  # of all servers of a process, because the client caches artifacts by their id

Values = dict[str, Any]


class Refused(Exception):
    """An answer that is an HTTP status."""


@dataclass
class Version:
    id: str
    type: str
    name: str
    project: str
    digest: str
    run: str | None  # that logged it
    metadata: Values
    asked: list[str]  # aliases that it gets when it is committed
    index: int | None = None
    aliases: list[str] = field(default_factory=list)
    manifest: Values = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.name}:v{self.index}"


@dataclass
class Link:
    collection: str  # entity/project/name
    version: Version
    index: int
    aliases: list[str] = field(default_factory=list)


class Artifacts:
    """The artifacts of W&B's server, and its answers about them."""

    def __init__(self) -> None:
        self.url = ""
        self.artifacts: dict[tuple[str, str], list[Version]] = {}
        self.drafts: dict[str, Version] = {}  # created, not committed
        self.merged: dict[str, Version] = {}  # drafts that another version is equal to
        self.blobs: dict[str, bytes] = {}  # by MD5 in base64
        self.used: dict[str, list[Version]] = {}
        self.links: list[Link] = []

    def files(self, version: Version) -> dict[str, bytes]:
        entries = version.manifest["contents"].items()
        return {name: self.blobs[entry["digest"]] for name, entry in entries if "ref" not in entry}

    def create_artifact(self, values: Values) -> Values:
        kind, name = values["artifactTypeName"], values["artifactCollectionName"]
        aliases = [alias["alias"] for alias in values.get("aliases") or []]
        versions = self.artifacts.get((kind, name), [])
        latest = {"id": versions[-1].id} if versions else None
        same = [version for version in versions if version.digest == values["digest"]]
        if same:
            version = same[0]
            self._move(aliases, version)
        else:
            place = f"artifact:{next(numbers)}", kind, name, values["projectName"], values["digest"]
            metadata = json.loads(values.get("metadata") or "{}")
            version = Version(*place, values.get("runName"), metadata, aliases)
            self.drafts[version.id] = version
        answer = {"id": version.id, "state": "COMMITTED" if same else "PENDING"}
        return {"createArtifact": {"artifact": answer | {"artifactSequence": {"latestArtifact": latest}}}}

    def create_manifest(self, values: Values) -> Values:
        return {"createArtifactManifest": self._manifest(values["artifactID"])}

    def update_manifest(self, values: Values) -> Values:
        return {"updateArtifactManifest": self._manifest(values["artifactManifestID"])}

    def _manifest(self, identity: str) -> Values:
        file = {
            "id": f"file-{identity}",
            "uploadUrl": f"{self.url}/manifests/{identity}",
            "uploadHeaders": [],
        }
        return {"artifactManifest": {"id": identity, "file": file}}

    def create_artifact_files(self, values: Values) -> Values:
        nodes = []
        for file in values["artifactFiles"]:
            url = f"{self.url}/blobs/{quote(file['md5'], safe='')}"
            node = {"uploadUrl": None if file["md5"] in self.blobs else url, "uploadHeaders": []}
            node |= {"artifact": {"id": file["artifactID"]}, "storagePath": file["md5"]}
            nodes.append({"node": node | {"uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def commit_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        if self.drafts.pop(version.id, None):
            versions = self.artifacts.setdefault((version.type, version.name), [])
            if same := [other for other in versions if other.digest == version.digest]:
                self.merged[version.id] = same[0]  # two runs made it at the same time
                self._move(version.asked, same[0])
            else:
                version.index = len(versions)
                versions.append(version)
                self._move(version.asked, version)
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.digest}}}

    def update_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        if values.get("metadata"):
            version.metadata = json.loads(values["metadata"])
        return _result("updateArtifact", {"artifact": _artifact_fields(version)})

    def add_aliases(self, values: Values) -> Values:
        self._move([alias["alias"] for alias in values["aliases"]], self._find(values["artifactID"]))
        return _result("addAliases", {"success": True})

    def delete_aliases(self, values: Values) -> Values:
        version, gone = self._find(values["artifactID"]), [alias["alias"] for alias in values["aliases"]]
        version.aliases = [alias for alias in version.aliases if alias not in gone]
        return _result("deleteAliases", {"success": True})

    def use_artifact(self, values: Values) -> Values:
        version, used = self._find(values["artifactID"]), self.used.setdefault(values["runName"], [])
        if version not in used:
            used.append(version)
        return {"useArtifact": {"artifact": _artifact_fields(version)}}

    def link_artifact(self, values: Values) -> Values:
        version = self._find(values["artifactID"])
        place = values["entityName"], values["projectName"], values["artifactPortfolioName"]
        there = [link for link in self.links if link.collection == "/".join(place)]
        found = [link for link in there if link.version is version]
        link = found[0] if found else Link("/".join(place), version, len(there))
        aliases = {alias["alias"] for alias in values.get("aliases") or []} | {"latest"}
        for other in there:
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        link.aliases = sorted(aliases.union(link.aliases))
        if not found:
            self.links.append(link)
        portfolio = {
            "__typename": "ArtifactPortfolio",
            "name": place[2],
            "project": project_fields(*place[:2]),
        }
        membership = _membership(version, link.index, link.aliases, portfolio)
        return _result("linkArtifact", {"versionIndex": link.index, "artifactMembership": membership})

    def read_artifact(self, values: Values) -> Values:
        return {"artifact": _artifact_fields(self._find(values["id"]))}

    def read_membership(self, values: Values) -> Values:
        version = self._named(values["name"])
        found = version and _membership(version, version.index, version.aliases, _collection(version))
        return {"project": {"artifactCollectionMembership": found}}

    def read_artifact_type(self, values: Values) -> Values:
        version = self._named(values["name"])
        return {"project": {"artifact": version and {"artifactType": {"name": version.type}}}}

    def _versions(self) -> list[Version]:
        return [version for versions in self.artifacts.values() for version in versions]

    def _find(self, identity: str) -> Version:
        known = {version.id: version for version in (*self.drafts.values(), *self._versions())}
        return (known | self.merged)[identity]

    def _named(self, name: str) -> Version | None:
        """The version of a name like `model:best` or `model:v0`."""
        collection, _, alias = name.partition(":")
        for version in self._versions():
            if version.name == collection and alias in (*version.aliases, f"v{version.index}"):
                return version
        return None

    def _move(self, aliases: list[str], version: Version) -> None:
        for other in self.artifacts[version.type, version.name]:
            other.aliases = [alias for alias in other.aliases if alias not in aliases]
        version.aliases += aliases

    def store(self, path: str, content: bytes) -> Values:
        """Takes an upload."""
        _, kind, name = path.split("/", 2)
        if kind == "manifests":
            self._find(name).manifest = json.loads(content)
            return {}
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        if unquote(name) != digest:
            raise Refused(400)
        self.blobs[digest] = content
        return {}


ANSWERS: dict[str, Callable[[Any, Values], Values]] = {
    "AddAliases": Artifacts.add_aliases,
    "ArtifactByID": Artifacts.read_artifact,
    "ArtifactMembershipByName": Artifacts.read_membership,
    "ArtifactType": Artifacts.read_artifact_type,
    "CommitArtifact": Artifacts.commit_artifact,
    "CreateArtifact": Artifacts.create_artifact,
    "CreateArtifactFiles": Artifacts.create_artifact_files,
    "CreateArtifactManifest": Artifacts.create_manifest,
    "DeleteAliases": Artifacts.delete_aliases,
    "LinkArtifact": Artifacts.link_artifact,
    "UpdateArtifact": Artifacts.update_artifact,
    "UpdateArtifactManifest": Artifacts.update_manifest,
    "UseArtifact": Artifacts.use_artifact,
}


def project_fields(entity: str | None, name: str | None) -> Values:
    owner = {"id": "1", "name": entity or ENTITY}
    return {"id": "2", "internalId": "2", "name": name or "uncategorized", "entity": owner}


def _collection(version: Version) -> Values:
    project = project_fields(None, version.project)
    return {"__typename": "ArtifactSequence", "name": version.name, "project": project}


def _aliases(aliases: list[str], collection: Values) -> list[Values]:
    kind = {"__typename": "ArtifactAlias", "artifactCollection": collection}
    return [{**kind, "id": f"alias:{alias}", "alias": alias} for alias in aliases]


def _artifact_fields(version: Version) -> Values:
    collection, size = _collection(version), len(version.manifest.get("contents", {}))
    fields = {
        "__typename": "Artifact",
        "id": version.id,
        "artifactSequence": collection,
        "digest": version.digest,
    }
    fields |= {"versionIndex": version.index, "artifactType": {"name": version.type}, "description": None}
    fields |= {"metadata": json.dumps(version.metadata), "ttlDurationSeconds": -2, "ttlIsInherited": True}
    fields |= {"tags": [], "historyStep": None, "size": 0, "fileCount": size, "commitHash": version.digest}
    fields |= {"state": "PENDING" if version.index is None else "COMMITTED"}
    return fields | {"createdAt": DATE, "updatedAt": None, "aliases": _aliases(version.aliases, collection)}


def _membership(version: Version, index: int | None, aliases: list[str], collection: Values) -> Values:
    fields = {"__typename": "ArtifactCollectionMembership", "id": f"member:{version.id}", "createdAt": DATE}
    fields |= {"versionIndex": index, "artifact": _artifact_fields(version), "artifactCollection": collection}
    return fields | {"aliases": _aliases(aliases, collection)}


def _result(name: str, answer: Values) -> Values:
    """An answer under the name that the Go part of the client reads, and under that of the Python part."""
    return {name: answer, "result": answer}
