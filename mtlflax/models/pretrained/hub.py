"""Weights by name from the Hugging Face hub: `timm/resnet50.tv_in1k`.

A name is a repository there that holds a `model.safetensors`, and may end in `@` and a revision: a commit, a branch or
a tag. The package `huggingface_hub` downloads the file once and keeps it in its cache (`HF_HOME`, `HF_HUB_CACHE`; with
`HF_HUB_OFFLINE=1` it looks nowhere else).

Without a revision, the names of `DEFAULTS` mean the commits that `PINNED` has for them, and another file than the one
whose SHA-256 stands there is refused; any other name means the branch `main`. We could not reach the hub where this was
written: commits and hashes are from public code that pins the same files, and for two names we found none. Each run's
`config.json` records the SHA-256 of what it started from.
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
# The commit, and the SHA-256 of what is there.
PINNED = {
    "timm/resnet18.tv_in1k": (
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    "timm/resnet34.tv_in1k": (
        "1b7b21cca82ff974d341713f777bf740c2db38c4",
        "0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235",
    ),
    "timm/resnet50.tv_in1k": (
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "timm/densenet121.tv_in1k": (
        "f0d0f2698a02cb133b09d48396db6e1e46fe9f3b",
        "c894c6d9caa317a8ca1942986dee7a16a86c77734a4d691d2abe05389cfef358",
    ),
}
_FILE = "model.safetensors"


def is_name(source: str) -> bool:
    """Whether this is a repository on the hub, `owner/name[@revision]`, and not the path of a file, or meant as one.

    >>> is_name("timm/resnet50.tv_in1k"), is_name("microsoft/resnet-50@main"), is_name("weights/resnet50.pth")
    (True, True, False)
    >>> is_name("./timm/resnet50"), is_name("resnet50")
    (False, False)
    """
    named = re.fullmatch(r"\w[\w.-]*/[\w.-]+(@.+)?", source) is not None
    return named and not source.lower().endswith(SUFFIXES) and not Path(source).exists()


def download(name: str) -> Path:
    """Gives the path of a repository's weights, downloaded where they are not yet in the cache.

    Args:
        name: `owner/name`, or `owner/name@revision`.

    Raises:
        UserError: the package is missing, the hub has no such file, it cannot be reached, or it has another file than
            the one that we know by this name.
    """
    repository, _, revision = name.partition("@")
    commit, sha256 = PINNED.get(name, ("main", ""))
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"{name} is no file here; if it is on the Hugging Face hub: pip install 'mtlflax[hub]' to download it"
        ) from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _FILE, revision=revision or commit))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"the Hugging Face hub has no {name} (or it is private), and it is no file here") from error
    except Exception as error:  # whatever the package, its HTTP client and its storage raise
        # "Local" where the hub was not reached: then the file is only known not to be in the cache.
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(f"{name} on the Hugging Face hub has no {_FILE}") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be downloaded from the Hugging Face hub: {reason}") from error

    if sha256:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise UserError(
                f"{path} is not the file that is known as {name}: its SHA-256 begins with {digest[:12]}, not "
                f"{sha256[:12]}. Delete it to download it again; {name}@main takes whatever is there"
            )
    return path
