"""Weights by name from the Hugging Face hub: `timm/resnet50.tv_in1k`.

A name is a repository there that holds a `model.safetensors`, and may end in `@` and a revision: a commit, a branch or
a tag. The package `huggingface_hub` downloads the file once and keeps it in its cache (`HF_HOME`, `HF_HUB_CACHE`; with
`HF_HUB_OFFLINE=1` it looks nowhere else).

A name without a revision means the branch `main`. We could not look up commits where this was written, so the names of
`DEFAULTS` are not bound to any. What we know is the beginning of the SHA-256 of one file, `timm/resnet50.tv_in1k`'s:
another file by that name is refused. Each run's `config.json` records the SHA-256 of what it started from.
"""

import hashlib
import re
from pathlib import Path

from mtlflax.errors import UserError
from mtlflax.models.pretrained.files import SUFFIXES

# torchvision's first ImageNet weights of each encoder ("IMAGENET1K_V1"), as timm publishes them.
DEFAULTS = {
    "resnet18": "timm/resnet18.tv_in1k",
    "resnet34": "timm/resnet34.tv_in1k",
    "resnet50": "timm/resnet50.tv_in1k",
    "resnet101": "timm/resnet101.tv_in1k",
    "densenet121": "timm/densenet121.tv_in1k",
    "densenet169": "timm/densenet169.tv_in1k",
}
_SHA256 = {"timm/resnet50.tv_in1k": "5d061a3c593d"}  # the first digits
_FILE = "model.safetensors"


def is_name(source: str) -> bool:
    """Whether this is a repository on the hub, `owner/name[@revision]`, and not a file's path.

    >>> is_name("timm/resnet50.tv_in1k"), is_name("microsoft/resnet-50@main"), is_name("weights/resnet50.pth")
    (True, True, False)
    >>> is_name("./timm/resnet50"), is_name("resnet50")
    (False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+(@.+)?", source) is not None and not source.endswith(SUFFIXES)


def download(name: str) -> Path:
    """Gives the path of a repository's weights, downloaded where they are not yet in the cache.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        UserError: the package is missing, the hub has no such file, it cannot be reached, or it has another file than
            the one that we know by this name.
    """
    repository, _, revision = name.partition("@")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(f"{name} is on the Hugging Face hub: pip install 'mtlflax[hub]' to download it") from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _FILE, revision=revision or "main"))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"the Hugging Face hub has no {name} (or it is private)") from error
    except Exception as error:  # whatever the package, its HTTP client and its storage raise
        # "Local" where the hub was not reached: then the file is only known not to be in the cache.
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(f"{name} on the Hugging Face hub has no {_FILE}") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be downloaded from the Hugging Face hub: {reason}") from error

    if pinned := _SHA256.get(name):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(pinned):
            raise UserError(
                f"{path} is not the file that is known as {name}: its SHA-256 begins with {digest[:12]}, not {pinned}. "
                f"Delete it to download it again; {name}@main takes whatever is there"
            )
    return path
