"""Trained models at the Hugging Face hub, through `huggingface_hub` (the extra `hub`)."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from mnistjax.config import ConfigError, one_line
from mnistjax.words import HUB
from mnistjax.zoo import MODEL, is_own_model
from mnistjax.zoo.card import Card
from mnistjax.zoo.pretrained import CONFIG, README, is_own_config, is_own_readme, save_pretrained

NAME = r"\w[\w.-]*/\w[\w.-]*"  # of a repository
REVISION = r"(?!.*\.\.)\w[\w./-]*"  # a branch, a tag, or the id of a commit; it is a path in the hub's cache


def push_to_hub(
    name: str,
    model: nn.Module,
    variables: Mapping[str, Any],
    card: Card,
    *,
    license: str | None = None,
    private: bool = False,
) -> str:
    """Uploads a trained model to the repository `name`, "USER/NAME", of the hub; returns the commit's URL.

    The repository is made if it is new, `private` or for all. It gets one commit with the files of
    `save_pretrained`; a README that is not ours stays. The login is that of `hf auth login`, or HF_TOKEN.
    ConfigError for a wrong name, a repository with a model of others, without a login or a network, and as
    `save_pretrained`.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"the name of a repository at the hub is USER/NAME; got {name!r}")
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(Path(place, name.partition("/")[2]), model, variables, card, license=license)
        with hub_errors(name) as hub:
            hub.create_repo(name, private=private, exist_ok=True)
            if has_other(hub, name, CONFIG, is_own_config) or has_other(hub, name, MODEL, is_own_model):
                raise ConfigError(f"{name} at the hub holds another model, so it is not replaced")
            if has_other(hub, name, README, is_own_readme):
                (folder / README).unlink()
            words = f"{card.model} on {card.data}, {card.test_accuracy:.2%} of the test images right"
            return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message=words).commit_url)


def has_other(hub: Any, name: str, file: str, is_own: Callable[[Path], bool]) -> bool:
    """Whether a repository has a file of this name that `save_pretrained` did not write."""
    try:
        return not is_own(Path(hub.hf_hub_download(name, file)).resolve())
    except hub.errors.LocalEntryNotFoundError:  # the hub does not answer
        raise
    except hub.errors.EntryNotFoundError:
        return False


def download(name: str) -> Path:
    """The file of the model "hf-hub:USER/NAME" or "hf-hub:USER/NAME@REVISION", in the hub's cache.

    Without a network it is the file that the cache has. ConfigError if there is none.
    """
    repository, _, revision = name.removeprefix(HUB).partition("@")
    if not re.fullmatch(NAME, repository) or ("@" in name and not re.fullmatch(REVISION, revision)):
        raise ConfigError(f"a model at the hub is {HUB}USER/NAME or {HUB}USER/NAME@REVISION; got {name!r}")
    with hub_errors(name) as hub:
        return Path(hub.hf_hub_download(repository, MODEL, revision=revision or None)).resolve()


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[Any]:
    """A context with the module `huggingface_hub`, whose errors become ConfigErrors that name the model."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise ConfigError("the hub needs an extra: pip install 'mnistjax[hub]'") from None
    try:
        yield huggingface_hub
    except ConfigError:
        raise
    except Exception as error:  # its errors have no common class
        raise ConfigError(f"{name}: {one_line(error)[:300]}") from None
